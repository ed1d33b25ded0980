"""Writing and reading a store against the same bytes as plain files, in one run.

python tests/bench/store.py [--quick] [--megabytes 256] [--folder DIR]

Baselines hold the same bfloat16 bits: a raw file, np.save, np.load, a memory map. "cold": before each call the kernel
is told to drop the files from its page cache (posix_fadvise DONTNEED, after a sync), so that reading starts at the
disk; "warm": they are in the page cache, and np.load is a copy in memory.
"""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr
from measuring import Goal, Spent, finish, parser, row, speed, taking_turns
from numpy.typing import NDArray

import actstore
from actstore import Store
from actstore.format import shards
from actstore.format.layout import RESIDUAL
from actstore.format.names import from_bfloat16, to_bfloat16
from actstore.read import arrays as coding
from actstore.write import arrays

LAYERS, WIDTH, LAYER = 8, 4096, 3
READ, DISK = Goal(">=", 0.5), Goal("<=", 0.72)
SHARES = (0.001, 0.01, 0.1, 1.0)  # of the rows

Bits = NDArray[np.uint16]


def heavy_tailed(rows: int) -> Bits:
    """bfloat16 bits (layers, rows, width) with the spread and the massive dimensions of a residual stream."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(5, (LAYERS, rows, WIDTH)).astype(np.float32)
    x *= np.exp(rng.normal(0, 0.5, WIDTH)).astype(np.float32)
    x[..., :2] *= 300
    return to_bfloat16(x)


def raw(path: Path, array: Bits) -> None:
    """The bytes and nothing else, forced to disk as a store is."""
    with path.open("wb") as file:
        file.write(array.data)
        os.fsync(file.fileno())


def saved(path: Path, array: Bits) -> None:
    """np.save, forced to disk."""
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def forget(folder: Path) -> None:
    """Drop every file below a folder from the page cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def writing(root: Path, x: Bits, plan: pl.DataFrame, rows: pl.DataFrame, repeats: int) -> list[dict[str, Any]]:
    """A part of two roles, checked, compressed, committed and synced; and its bytes on disk."""
    count = iter(range(100))
    values = {"eoi": x[:, : x.shape[1] // 2], "last": x[:, x.shape[1] // 2 :]}

    def write() -> None:
        store = actstore.create(root / f"s{next(count)}", plan=plan, layers=range(LAYERS), d_model=WIDTH)
        store.write(0, samples=plan.select("sample_id"), rows=rows, residual=values)

    calls: dict[str, Callable[[], object]] = {
        "ours": write,
        "raw file + fsync": partial(raw, root / "x.bin", x),
        "np.save + fsync": partial(saved, root / "x.npy", x),
        "the codec alone": partial(codec, x),
    }
    spent = taking_turns(calls, repeats)
    what = f"write {x.nbytes / 1e6:.0f} MB, synced"
    store = actstore.open(root / "s0")
    found = [one for name in list(calls)[1:] for one in speed(what, spent["ours"], name, spent[name])]
    size = store.commits[0].bytes
    return [*found, row("on disk, heavy-tailed bf16", size / 1e6, "MB", "raw", x.nbytes / 1e6, goal=DISK)]


def codec(x: Bits) -> None:
    """What compression costs in any store of these chunks: one thread, nothing written."""
    size = 2**20 // (2 * WIDTH)
    for layer in x:
        for start in range(0, len(layer), size):
            shards.encode(layer[start : start + size])


def reading(root: Path, x: Bits, repeats: int) -> list[dict[str, Any]]:
    """One role at one layer, from the disk and from the page cache."""
    role = x[:, : x.shape[1] // 2]
    np.save(root / "layer.npy", role[LAYER])
    (root / "layer.bin").write_bytes(role[LAYER].tobytes())
    store = actstore.open(root / "s0")
    ids = store.sql("select row_id from rows where role = 'eoi' order by row_id")
    np.testing.assert_array_equal(store.residual(ids, LAYER), from_bfloat16(role[LAYER]))
    calls: dict[str, Callable[[], object]] = {
        "ours": partial(store.residual, ids, LAYER),
        "np.load": partial(np.load, root / "layer.npy"),
        "np.load, as float32": lambda: from_bfloat16(np.load(root / "layer.npy")),
        "raw file": (root / "layer.bin").read_bytes,
        "plain Zarr, as float32": partial(plain_zarr, store),
    }
    found = []
    for state, before in (("cold", partial(forget, root)), ("warm", lambda: None)):
        spent = taking_turns(calls, repeats, before=before)
        what = f"read one role, one layer, {role[LAYER].nbytes / 1e6:.0f} MB, {state}"
        for name in list(calls)[1:]:
            goal = READ if (state, name) == ("cold", "np.load") and role[LAYER].nbytes > 10**7 else None
            found += speed(what, spent["ours"], name, spent[name], goal, clock=True)
    return found


def plain_zarr(store: Store) -> NDArray[np.float32]:
    """The same through zarr's own reader, which compares nothing with the commit."""
    array = zarr.open_array(store.parts[0].folder / "residual/eoi", mode="r")
    return from_bfloat16(np.asarray(array[LAYER]))


def some_rows(root: Path, x: Bits, repeats: int) -> list[dict[str, Any]]:
    """Rows chosen by SQL, scattered: time beside a memory map, and bytes read over bytes wanted."""
    store = actstore.open(root / "s0")
    mapped = np.load(root / "layer.npy", mmap_mode="r")
    rows = store.sql("select row_id, place from rows where role = 'eoi' order by hash(row_id)")
    found = []
    for share in SHARES:
        some = rows.head(max(1, round(share * rows.height)))
        places = some["place"].to_numpy()

        def by_map(places: NDArray[np.int32] = places) -> object:
            return from_bfloat16(np.asarray(mapped[places]))

        np.testing.assert_array_equal(store.residual(some, LAYER), by_map())
        spent = taking_turns({"ours": partial(store.residual, some, LAYER), "map": by_map}, repeats)
        what = f"read {share:.1%} of the rows of a role by SQL"
        found += speed(what, spent["ours"], "memory map, warm", spent["map"])
        useful = 2 * WIDTH * len(places)
        found.append(row(f"{what}: bytes", touched(store, some) / 1e6, "MB", "wanted", useful / 1e6))
    return found


def touched(store: Store, rows: pl.DataFrame) -> int:
    """Bytes that reading these rows takes from the shards."""
    return touched_by(partial(store.residual, rows, LAYER))


def touched_by(call: Callable[[], object]) -> int:
    """Bytes that a call reads from shards."""
    count = 0
    read = shards.os.pread

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal count
        count += size
        return read(descriptor, size, offset)

    shards.os.pread = counting
    try:
        call()
    finally:
        shards.os.pread = read
    return count


def threads(root: Path, x: Bits, repeats: int) -> list[dict[str, Any]]:
    """Reading and writing an array with one thread and with as many as there are."""
    before, found = coding.THREADS, []
    store = actstore.open(root / "s0")
    reader = store.parts[0].array("residual/eoi")
    count = iter(range(100))

    def write() -> None:
        arrays.write(root / f"a{next(count)}", "residual/eoi", x, "bfloat16", RESIDUAL)

    def with_threads(n: int, call: Callable[[], object]) -> Spent:
        coding.THREADS = n
        coding.pool.cache_clear()
        call()
        return taking_turns({"": call}, repeats)[""]

    try:
        for what, call in (("decode a layer", partial(reader.layer, LAYER)), ("encode an array", write)):
            one, all_of_them = with_threads(1, call), with_threads(before, call)
            found += speed(f"{what}, {before} threads", all_of_them, "one thread", one)
    finally:
        coding.THREADS = before
        coding.pool.cache_clear()
    return found


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--megabytes", type=int)
    made.add_argument("--folder", type=Path, help="a folder on the disk that is meant; else the temporary one")
    asked = made.parse_args()
    megabytes, repeats = asked.megabytes or (32 if asked.quick else 256), 2 if asked.quick else 7
    n = megabytes * 10**6 // (LAYERS * WIDTH * 2) // 2 * 2
    x = heavy_tailed(n)
    plan = pl.DataFrame({"sample_id": [f"s{i}" for i in range(n // 2)], "batch": 0})
    rows = pl.DataFrame({"sample_id": [*plan["sample_id"]] * 2, "role": ["eoi"] * (n // 2) + ["last"] * (n // 2)})
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        root = Path(folder)
        found = writing(root, x, plan, rows, min(3, repeats))
        found += reading(root, x, repeats)
        found += some_rows(root, x, min(3, repeats))
        found += threads(root, x, min(3, repeats))
    finish(asked, found)


if __name__ == "__main__":
    main()
