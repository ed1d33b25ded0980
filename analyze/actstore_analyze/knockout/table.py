"""Knockouts of several stores as one table, as The Narrow Gate's Table 1: a row for each model and knockout."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from actstore.store import Store
from actstore_analyze.knockout.figure import everywhere
from actstore_analyze.knockout.study import WORDS
from actstore_analyze.published import curves, models
from actstore_analyze.score.published import source_of

__all__ = ["Side", "side_by_side"]

SOURCES = {"vqav2": "VQAv2", "coco": "COCO", "flickr30k": "Flickr30k", "imagenet": "ImageNet"}


class Side(NamedTuple):
    """A store's own table of knockouts."""

    store: Store
    table: pl.DataFrame


def side_by_side(sides: Sequence[Side]) -> pl.DataFrame:
    """model, knockout, then a column for each data set and metric: text, with published values in brackets, by the
    model that the run card says it is.

    Stores of one model share its rows. Knockouts are those in all blocks (*: in some); repeats have their spread.
    """
    long = pl.concat(_long(side) for side in sides)
    wide = long.pivot("column", index=["model", "knockout"], values="text", aggregate_function="first")
    first = long.unique(["model", "knockout"], keep="first", maintain_order=True).select("model", "knockout")
    return first.join(wide, on=["model", "knockout"], maintain_order="left")


def _long(side: Side) -> pl.DataFrame:
    model = str(side.store.run.get("model") or side.store.path.name).rstrip("/").split("/")[-1]
    source = source_of(side.store)
    printed = {
        (knockout, metric): value
        for knockout, metric, value in curves.knockouts()
        .filter(model=models.of_run(side.store.run) or "", source=source)
        .select("knockout", "metric", "value")
        .iter_rows()
    }
    rows = [
        (model, name, _column(source, metric), _text(value, spread, printed.get((knockout, metric))))
        for knockout, name, metric, value, spread in everywhere(side.table)
        .select("knockout", "name", "metric", "value", "spread")
        .iter_rows()
    ]
    return pl.DataFrame(rows, schema=["model", "knockout", "column", "text"], orient="row")


def _column(source: str, metric: str) -> str:
    return ", ".join(filter(None, (SOURCES.get(source, source), WORDS[metric])))


def _text(value: float | None, spread: float | None, printed: float | None) -> str:
    text = "undefined" if value is None or value != value else f"{value:.3f}"
    text += "" if spread is None else f" ± {spread:.3f}"
    return text if printed is None else f"{text} [{printed:.2f}]"
