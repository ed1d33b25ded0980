"""Small stores with known numbers, for tests."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import actstore
from actstore.format import commits, records
from actstore.format.commits import Commit, File
from actstore.format.layout import RESIDUAL
from actstore.format.names import COMMITS, PARTS
from actstore.format.tables import write_table
from actstore.storage import local
from actstore.write import arrays
from actstore.write.batch import Values

LAYERS = (0, 1, 2)
D_MODEL = 8
SAMPLES = 4
FAILED = 2  # of the samples of each batch, this one failed
PER_SAMPLE = {"eoi": 1, "image": 2}
BLOCKS = (0, 1)
KV_WIDTH = 6
KV_PER_SAMPLE = {"image": 2, "prefix": 2}  # of `prefix` nothing else is kept


def plan(batches: int = 3) -> pl.DataFrame:
    """Batches of four samples: b0s0, b0s1, ...; labels alternate."""
    found = [
        (batch, f"b{batch}s{sample}", "cat" if sample % 2 else "dog") for batch in range(batches) for sample in range(4)
    ]
    return pl.DataFrame(found, schema=["batch", "sample_id", "label"], orient="row")


def vectors(batch: int, role: str) -> NDArray[np.float32]:
    """Vectors (layers, rows, d_model) of a role: multiples of 1/8 below 16, which every number type holds exactly."""
    rows = PER_SAMPLE[role] * (SAMPLES - 1)
    layer, row, feature = np.ogrid[: len(LAYERS), :rows, :D_MODEL]
    numbers = batch * 31 + layer * 7 + row * 3 + feature + len(role)
    return ((numbers % 97 - 48) / 8).astype(np.float32)


def columns(batch: int) -> NDArray[np.float32]:
    """Attention (layers, samples, heads, queries): sample s has s + 1 queries, the failed one none."""
    found = np.full((len(LAYERS), SAMPLES, 2, SAMPLES), np.nan, np.float32)
    for sample in range(SAMPLES):
        if sample != FAILED:
            found[:, sample, :, : sample + 1] = 0.25 * (sample + 1) + batch
    return found


def content(batch: int) -> dict[str, Any]:
    """What `Store.write` takes for a batch; rows go by sample, so that a row's place is not its number."""
    done = [sample for sample in range(SAMPLES) if sample != FAILED]
    samples = pl.DataFrame(
        {
            "sample_id": [f"b{batch}s{sample}" for sample in range(SAMPLES)],
            "status": ["failed" if sample == FAILED else "ok" for sample in range(SAMPLES)],
            "error": ["not an image" if sample == FAILED else None for sample in range(SAMPLES)],
            "length": [None if sample == FAILED else 10 + sample for sample in range(SAMPLES)],
            "top_tokens": [None if sample == FAILED else [" dog", "a"] for sample in range(SAMPLES)],
            "top_probabilities": [None if sample == FAILED else [0.5, 0.25] for sample in range(SAMPLES)],
            "answer_probabilities": [None if sample == FAILED else [0.125] for sample in range(SAMPLES)],
            "source_similarity": [None if sample == FAILED else 0.75 for sample in range(SAMPLES)],
        }
    )
    rows = [
        (f"b{batch}s{sample}", role, position)
        for sample in done
        for role, position in (("image", 1), ("eoi", 3), ("image", 2))
    ]
    return {
        "samples": samples,
        "rows": pl.DataFrame(rows, schema=["sample_id", "role", "position"], orient="row"),
        "residual": {role: vectors(batch, role) for role in PER_SAMPLE},
        "attention": {"eoi": columns(batch)},
    }


def create(path: Path, batches: int = 3, dtype: str = "bfloat16", **options: Any) -> actstore.Store:
    """An empty store with a plan of `batches` batches."""
    options = {"run": {"model": "tiny", "seed": 0}, "vocabulary": {1: "a", 7: " dog"}, **options}
    return actstore.create(path, plan=plan(batches), layers=LAYERS, d_model=D_MODEL, dtype=dtype, **options)


def store(path: Path, batches: int = 3, dtype: str = "bfloat16") -> actstore.Store:
    """A store with every batch written."""
    empty = create(path, batches, dtype)
    for batch in range(batches):
        empty.write(batch, **content(batch))
    return actstore.open(path)


def kv(batch: int, role: str, kind: str) -> NDArray[np.float32]:
    """Keys or values (blocks, rows, width) of a role, which every number type holds exactly."""
    rows = KV_PER_SAMPLE[role] * (SAMPLES - 1)
    block, row, feature = np.ogrid[: len(BLOCKS), :rows, :KV_WIDTH]
    numbers = batch * 29 + block * 11 + row * 5 + feature + len(role) + 13 * len(kind)
    return ((numbers % 89 - 44) / 8).astype(np.float32)


def kv_content(batch: int) -> dict[str, Any]:
    """What `Store.write` takes for a batch of a store with keys and values."""
    found = content(batch)
    prefix = [(f"b{batch}s{sample}", "prefix", at) for sample in range(SAMPLES) if sample != FAILED for at in (0, 1)]
    added = pl.DataFrame(prefix, schema=["sample_id", "role", "position"], orient="row")
    arrays = {kind: {role: kv(batch, role, kind) for role in KV_PER_SAMPLE} for kind in ("keys", "values")}
    return {**found, **arrays, "rows": pl.concat([found["rows"], added])}


def kv_store(path: Path, batches: int = 3, dtype: str = "bfloat16") -> actstore.Store:
    """A store with keys and values, every batch written."""
    empty = create(path, batches, dtype, blocks=BLOCKS)
    for batch in range(batches):
        empty.write(batch, **kv_content(batch))
    return actstore.open(path)


def kv_expected(rows: pl.DataFrame, block: int, kind: str) -> NDArray[np.float32]:
    """What `Store.keys` or `Store.values` must return for rows with row_id, role and place."""
    found = [
        kv(row_id >> 32, role, kind)[block, place]
        for row_id, role, place in rows.select("row_id", "role", "place").rows()
    ]
    return np.array(found, np.float32).reshape(-1, KV_WIDTH)


def expected(rows: pl.DataFrame, layer: int) -> NDArray[np.float32]:
    """The vectors that `Store.residual` must return for rows with row_id, role and place."""
    found = [
        vectors(row_id >> 32, role)[layer, place]
        for row_id, role, place in rows.select("row_id", "role", "place").rows()
    ]
    return np.array(found, np.float32).reshape(-1, D_MODEL)


def compact(store: actstore.Store, number: int, names: list[str]) -> Commit:
    """Merge the parts of some commits into one, as FORMAT.md says a compaction does."""
    merged = [part for part in store.parts if part.commit.name in names]
    name = f"c{number:08d}"
    part = f"{name}-00c0ffee"
    folder = store.path / PARTS / part
    folder.mkdir()
    rows = pl.concat(part.rows() for part in merged)
    rows = rows.with_columns(place=pl.int_range(pl.len()).over("role").cast(pl.Int32))
    write_table(folder / "rows.parquet", rows)
    write_table(folder / "samples.parquet", pl.concat(part.samples() for part in merged))
    specs = {}
    for role in PER_SAMPLE:
        layers = [np.concatenate([one.array(f"residual/{role}").layer(layer) for one in merged]) for layer in LAYERS]
        values = Values(np.stack(layers), store.header.dtype, RESIDUAL)
        specs[f"residual/{role}"] = arrays.write(
            folder, f"residual/{role}", values.array, values.dtype, values.dimensions
        )
    local.sync_tree(folder)
    commit = Commit(
        name=f"{name}.json",
        store=store.header.crc32c,
        part=part,
        batches=tuple(sorted(batch for one in merged for batch in one.commit.batches)),
        files={
            path.relative_to(folder).as_posix(): File.of(path) for path in sorted(folder.rglob("*")) if path.is_file()
        },
        arrays=specs,
        rows=rows.height,
        samples=sum(one.commit.samples for one in merged),
        written="2026-01-01T00:00:00+00:00",
        replaces=tuple(sorted(names)),
        by={},
    )
    commits.publish(store.path, commit)
    return commit


def files(path: Path) -> list[Path]:
    """Every file of a store."""
    return sorted(file for file in path.rglob("*") if file.is_file())


def contents(path: Path) -> dict[str, bytes]:
    """The bytes of every file of a store, by its name in it."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files(path)}


def record(path: Path, batch: int) -> Path:
    """The commit record of a batch."""
    return path / COMMITS / f"b{batch:08d}.json"


def change(path: Path, **fields: Any) -> None:
    """Change members of a record and make its checksum anew."""
    path.write_bytes(records.dump({**records.load(path), **fields}))


def golden(path: Path) -> None:
    """The stores under golden/store-1. They are made once and kept; every later version must read those bytes."""
    for dtype in ("bfloat16", "float16", "float32"):
        made = store(path / dtype, 2, dtype)
        made.save_result("count", pl.DataFrame({"role": ["eoi", "image"], "n": [6, 12]}), {"k": 10})
    compacted = store(path / "compacted", 3)
    compact(compacted, 0, ["b00000000.json", "b00000001.json"])
    for part in compacted.parts[:2]:
        shutil.rmtree(part.folder)


def golden_kv(path: Path) -> None:
    """The store in golden/store-1-kv.tar.xz: one with keys and values."""
    kv_store(path / "kv", 2)


PICTURES = [{"image_start": 1, "image_end": 4, "grid_rows": 2, "grid_columns": 2, "boi": None, "eoi": 5}] * 2


def pictured(path: Path, batches: int = 1, **options: bool) -> actstore.Store:
    """Samples of two pictures and of none: rows of eoi of each, and of last."""
    names = [(batch, f"b{batch}{kind}") for batch in range(batches) for kind in ("two", "none")]
    plan = pl.DataFrame({"batch": [b for b, _ in names], "sample_id": [name for _, name in names]})
    store = actstore.create(path, plan=plan, layers=[0], d_model=2, dtype="float32", **options)
    for batch in range(batches):
        two, none = f"b{batch}two", f"b{batch}none"
        rows = pl.DataFrame({"sample_id": [two, two, two, none], "role": ["eoi", "eoi", "last", "last"]})
        samples = pl.DataFrame({"sample_id": [two, none]})
        if options:
            rows = rows.with_columns(picture=pl.Series([1, 2, None, None]))
            samples = samples.with_columns(pictures=pl.Series([PICTURES, None]))
        x = np.arange(8, dtype=np.float32).reshape(1, 4, 2) + 10 * batch
        store.write(batch, samples=samples, rows=rows, residual={"eoi": x[:, :2], "last": x[:, 2:]})
    return actstore.open(path)


def owned(path: Path, batches: int = 2, **options: bool) -> actstore.Store:
    """Rows with columns of one's own: a word, a number, a score (NaN, NULL) and a truth value."""
    kinds = {"word": "string", "count": "int64", "score": "float64", "is_noun": "boolean"}
    plan = pl.DataFrame({"batch": range(batches), "sample_id": [f"s{batch}" for batch in range(batches)]})
    store = actstore.create(path, plan=plan, layers=[0], d_model=2, dtype="float32", row_columns=kinds, **options)
    for batch in range(batches):
        own = {"word": ["the", "cat"], "count": [batch, None], "score": [0.5, float("nan")], "is_noun": [False, True]}
        rows = pl.DataFrame({"sample_id": [f"s{batch}"] * 2, "role": ["text"] * 2, "position": [0, 1], **own})
        x = np.arange(4, dtype=np.float32).reshape(1, 2, 2) + 10 * batch
        store.write(batch, samples=plan.filter(batch=batch).select("sample_id"), rows=rows, residual={"text": x})
    return actstore.open(path)


def golden_owned(path: Path) -> None:
    """The store in golden/store-3.tar.xz: one whose rows have columns of one's own."""
    owned(path / "owned")


def golden_pictures(path: Path) -> None:
    """The store in golden/store-2.tar.xz: one of samples of several pictures."""
    pictured(path / "pictures", 2, pictures=True)
