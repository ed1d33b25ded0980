"""What the papers say beside their curves: ends, peaks and bounds in words, points read off by eye, benchmarks."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import polars as pl

from actstore_analyze.published.models import MODELS, key

__all__ = ["CURVE", "autoencoders", "benchmarks", "bound", "curve"]

# alone: the points are some of a curve that we do not have, and no line goes through them.
CURVE = {
    "model": pl.String,
    "layer": pl.Int64,
    **dict.fromkeys(("depth", "value"), pl.Float64),
    "said": pl.String,
    "alone": pl.Boolean,
}


def curve(measure: str, model: str) -> pl.DataFrame | None:
    """CURVE: the points that a paper says of a model in words; None where it says none.

    >>> curve("gap", "emu3").select("depth", "value").rows()
    [(0.0, 0.2), (1.0, 0.0)]
    """
    one = _stated(measure).get(key(model))
    if one is None:
        return None
    known = MODELS[key(model)]
    alone = len({y for _, y in one["points"]}) > 1
    rows = [(known.name, round(x * known.layers), x, y, one["said"], alone) for x, y in one["points"]]
    return pl.DataFrame(rows, schema=CURVE, orient="row")


def bound(model: str) -> pl.DataFrame | None:
    """The level that the label overlap of a role is said to be above, from a layer on: CURVE, series, role."""
    one = _stated("overlap").get(key(model))
    if one is None:
        return None
    known = MODELS[key(model)]
    rows = [
        (known.name, layer, layer / known.layers, one["value"], one["said"], False)
        for layer in (one["first"], known.layers)
    ]
    named = {name: pl.lit(one[name]) for name in ("series", "role")}
    return pl.DataFrame(rows, schema=CURVE, orient="row").with_columns(**named)


def autoencoders(measure: str, model: str) -> pl.DataFrame | None:
    """CURVE, metric, group: what is published of sparse autoencoders ("sae") or of their descriptions ("match").

    The paper's layer is a block; its output is layer + 1 here. group: image, or the text that stands alone.

    >>> autoencoders("match", "clip-gemma-2-2b").filter(group="image").select("layer", "value").row(-1)
    (25, 0.51)
    """
    one = _stated(measure).get(key(model))
    if one is None:
        return None
    known = MODELS[key(model)]
    rows = [
        (known.name, block + 1, (block + 1) / known.layers, value, one["said"], True, metric, group)
        for metric, groups in one["metrics"].items()
        for group, points in groups.items()
        for block, value in points
    ]
    return pl.DataFrame(rows, schema={**CURVE, "metric": pl.String, "group": pl.String}, orient="row")


def benchmarks(model: str) -> pl.DataFrame:
    """task, metric, split, published: the scores that the paper gives for its own model; empty for others.

    >>> benchmarks("clip-gemma-2-2b").filter(task="pope", metric="accuracy")["published"].item()
    0.7257
    """
    rows = [
        (task, "relative" if task == "llava-bench" else name, name if task == "llava-bench" else "all", value)
        for task, scores in _stated("benchmarks").get(key(model), {}).items()
        for name, value in scores.items()
    ]
    schema = {**dict.fromkeys(("task", "metric", "split"), pl.String), "published": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _stated(measure: str) -> dict[str, Any]:
    return dict(_read()[measure])


@cache
def _read() -> dict[str, Any]:
    page = files("actstore_analyze.published").joinpath("stated.json")
    return dict(json.loads(page.read_text(encoding="utf-8")))
