"""Chunks and codecs that a layout could have, on one array each: what they cost and what they save, in one run.

python tests/bench/chunking.py [--quick] [--megabytes 128] [--store STORE --role ROLE] [--chunks 1024,256,128,64]

Every variant is written as a part's array is and read by the store's own reader, which compares each chunk with its
checksum; the format allows the first alone. Without a store the vectors are those of store.py; with one the residual
streams of a role. np.load is beside it with the conversion to float32, and np.save with fsync. All files are in the
page cache: a disk would be waited for by all alike. Not part of `make bench`.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numcodecs.blosc
import numpy as np
import polars as pl
from measuring import machine, parser, taking_turns
from numpy.typing import NDArray

import actstore
from actstore.commands.table import render
from actstore.format import layout, shards
from actstore.format.layout import RESIDUAL
from actstore.format.names import from_bfloat16, to_bfloat16
from actstore.read.arrays import ArrayReader
from actstore.write import arrays
from store import LAYER, heavy_tailed, saved, touched_by

Bits = NDArray[np.uint16]
blosc = numcodecs.blosc
CODECS = {
    "zstd 1, bytes": (b"zstd", 1, blosc.SHUFFLE),
    "zstd 1, bits": (b"zstd", 1, blosc.BITSHUFFLE),
    "zstd 3, bytes": (b"zstd", 3, blosc.SHUFFLE),
    "lz4 1, bytes": (b"lz4", 1, blosc.SHUFFLE),
    "lz4 1, bits": (b"lz4", 1, blosc.BITSHUFFLE),
    "none": (b"lz4", 0, blosc.NOSHUFFLE),
}


@contextmanager
def variant(kilobytes: int, codec: tuple[bytes, int, int]) -> Iterator[None]:
    """Arrays are written with such chunks, each one block of such a codec."""

    def encode(values: NDArray[np.generic]) -> bytes:
        name, level, shuffle = codec
        return bytes(blosc.compress(values, name, level, shuffle, values.nbytes, values.itemsize))

    with patch.object(layout, "CHUNK_BYTES", kilobytes << 10), patch.object(shards, "encode", encode):
        yield


def vectors(store: Path, role: str) -> Bits:
    """The residual streams (layers, rows, d) of a role, as bits."""
    opened = actstore.open(store)
    rows = opened.sql(f"from rows where role = '{role}' order by row_id")
    return np.stack(
        [to_bfloat16(opened.residual(rows, layer)) for layer in opened.layers[:: max(1, len(opened.layers) // 8)]]
    )


def measured(root: Path, x: Bits, kilobytes: int, codec: str, repeats: int) -> dict[str, Any]:
    """One variant beside np.load and np.save, in turns."""
    name, places = f"residual/{kilobytes}-{list(CODECS).index(codec)}", np.arange(x.shape[1])
    some = np.random.default_rng(0).permutation(places)[: max(1, len(places) // 100)]
    np.save(root / "layer.npy", x[LAYER])
    count = iter(range(100))
    with variant(kilobytes, CODECS[codec]):
        spec = arrays.write(root, name, x, "bfloat16", RESIDUAL)
        writing = partial(_written, root, name, x, count)
        reader = ArrayReader(root, name, spec)
        np.testing.assert_array_equal(reader.layer(LAYER), from_bfloat16(x[LAYER]))
        calls: dict[str, Callable[[], object]] = {
            "read": partial(reader.layer, LAYER),
            "np.load": lambda: from_bfloat16(np.load(root / "layer.npy")),
        }
        spent = taking_turns(calls, 3 * repeats)
        out = np.empty((len(some), x.shape[2]), np.float32)
        take = partial(reader.take, LAYER, some, out, np.arange(len(some)))
        wrote = taking_turns({"write": writing, "np.save": partial(saved, root / "x.npy", x)}, repeats)
        few = taking_turns({"take": take}, 3 * repeats)["take"]
    stored = sum(path.stat().st_size for path in (root / name).rglob("*") if path.is_file())
    return {
        "KB": kilobytes,
        "codec": codec,
        "speed of a layer / np.load": spent["np.load"].wall / spent["read"].wall,
        "CPU": spent["np.load"].cpu / spent["read"].cpu,
        "bytes of 1 % of rows / wanted": touched_by(take) / (some.size * x.shape[2] * x.itemsize),
        "ms of them": 1000 * few.wall,
        "on disk / raw": stored / x.nbytes,
        "speed of writing / np.save": wrote["np.save"].wall / wrote["write"].wall,
        "CPU s of writing": wrote["write"].cpu,
    }


def _written(root: Path, name: str, x: Bits, count: Iterator[int]) -> None:
    arrays.write(root / f"again{next(count)}", name, x, "bfloat16", RESIDUAL)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--megabytes", type=int)
    made.add_argument("--store", type=Path)
    made.add_argument("--role", default="image")
    made.add_argument("--chunks", default="1024,512,256,128,64")
    asked = made.parse_args()
    if asked.store:
        x = vectors(asked.store, asked.role)
    else:
        x = heavy_tailed((asked.megabytes or (16 if asked.quick else 128)) * 10**6 // (8 * 4096 * 2))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kilobytes in map(int, asked.chunks.split(",")):
            for codec in CODECS if kilobytes in (1024, 128) else list(CODECS)[:1]:
                root = Path(folder) / f"{kilobytes} {codec}"
                root.mkdir()
                found.append(measured(root, x, kilobytes, codec, 1 if asked.quick else 3))
    table = pl.DataFrame(found)
    render(table.with_columns(pl.col(pl.Float64).round_sig_figs(3)), "table")
    facts = machine()
    print(f"{x.shape} of bfloat16; {facts['cores']} cores, load {facts['load']:.1f}, {facts['versions']}")
    if asked.json:
        asked.json.write_text(table.write_json())


if __name__ == "__main__":
    main()
