"""Extraction in a process of its own, so that tests can kill it."""

from multiprocessing.process import BaseProcess
from pathlib import Path

import polars as pl

import actstore
from actstore_extract.recipe import recipe
from actstore_extract.run.runner import Run, Summary
from forked import processes

SMALL = ("samples.limit=24", "capture.part_samples=4", "capture.batch_size=4", "model.dtype=bfloat16", "check=false")


def extract(path: Path, *changes: str, name: str = "digits-fusion") -> Summary:
    """Run a recipe, made small, into `path` and return what was done."""
    return Run(recipe.load(name, [*SMALL, *changes])).extract(path)


def start(path: Path, *changes: str) -> BaseProcess:
    """The same in a new process; it is running when this returns."""
    child = processes.Process(target=_alone, args=(path, changes))
    child.start()
    return child


def _alone(path: Path, changes: tuple[str, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    extract(path, *changes)


def vectors(path: Path) -> dict[tuple[str, str, str, int], bytes]:
    """Every vector of a store, all its layers as bytes, by sample, condition, role and k; fails on a duplicate."""
    store = actstore.open(path)
    rows = store.sql("select row_id, sample_id, condition, role, k from rows order by row_id")
    layers = [store.residual(rows, layer) for layer in store.layers]
    keys = list(rows.select("sample_id", "condition", "role", "k").iter_rows())
    assert len(set(keys)) == len(keys)
    return {key: b"".join(x[i].tobytes() for x in layers) for i, key in enumerate(keys)}


def samples(path: Path) -> pl.DataFrame:
    """The samples of a store, by id."""
    return actstore.open(path).sql("from samples order by sample_id")
