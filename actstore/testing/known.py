"""Stores whose numbers are known: what was written is compared with what is read, bit for bit."""

import warnings
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import actstore
from actstore.errors import DamagedWarning

LAYERS, WIDTH, SAMPLES = 3, 32, 6
REFUSED = 3  # exit status of a writer that was told why it cannot write


class BrokenPromiseError(Exception):
    """A promise that was not kept."""


def create(path: Path, batches: int) -> actstore.Store:
    """An empty store of float32 vectors with a plan of that many batches."""
    names = [(batch, f"b{batch}s{sample}") for batch in range(batches) for sample in range(SAMPLES)]
    plan = pl.DataFrame(names, schema=["batch", "sample_id"], orient="row")
    return actstore.create(path, plan=plan, layers=range(LAYERS), d_model=WIDTH, dtype="float32")


def vectors(batch: int) -> NDArray[np.float32]:
    """The vectors (layers, samples, width) of a batch."""
    return np.random.default_rng(batch).standard_normal((LAYERS, SAMPLES, WIDTH)).astype(np.float32)


def content(batch: int) -> dict[str, Any]:
    """What `Store.write` takes for a batch."""
    samples = pl.DataFrame({"sample_id": [f"b{batch}s{sample}" for sample in range(SAMPLES)]})
    return {
        "samples": samples.with_columns(status=pl.lit("ok")),
        "rows": samples.with_columns(role=pl.lit("eoi")),
        "residual": {"eoi": vectors(batch)},
        "attention": {"eoi": np.full((LAYERS, SAMPLES, 1, 2), batch % 100, np.float16)},
    }


def write(store: actstore.Store, *batches: int) -> None:
    """Write batches."""
    for batch in batches:
        store.write(batch, **content(batch))


def check(path: Path | str, seen: Container[int] = ()) -> set[int]:
    """The batches that a store holds; raises BrokenPromiseError unless each is there once and whole, as it was written.

    seen: batches whose numbers were compared before.
    """
    with warnings.catch_warnings(action="ignore", category=DamagedWarning):  # of what a writer that died left
        store = actstore.open(path)
    found: set[int] = set()
    for part in store.parts:
        rows = part.rows()
        for (key,), of_batch in rows.with_columns(batch=pl.col("row_id") // 2**32).group_by("batch"):
            batch = int(str(key))
            if of_batch.height != SAMPLES or batch in found or batch not in part.commit.batches:
                raise BrokenPromiseError(f"batch {batch} has {of_batch.height} rows more, {SAMPLES} were written")
            found.add(batch)
            if batch not in seen:
                _compare(store, batch, of_batch.sort("row_id"))
    if found != {batch for part in store.parts for batch in part.commit.batches}:
        raise BrokenPromiseError(f"{path}: batches that were committed have no rows")
    return found


def _compare(store: actstore.Store, batch: int, rows: pl.DataFrame) -> None:
    for layer, truth in enumerate(vectors(batch)):
        if not np.array_equal(store.residual(rows, layer), truth):
            raise BrokenPromiseError(f"batch {batch}, layer {layer}: what is read is not what was written")
