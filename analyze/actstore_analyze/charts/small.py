"""Small panels, for many beside each other: drawn anew in less room, since a drawing that is shrunk cannot be read."""

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from actstore_analyze.charts.lines import HEIGHT, WIDTH, apart

__all__ = ["small"]

WIDE, HIGH = 185, 150  # pixels of a panel
NAME_GAP = 12
MOST_TICKS = 7
CHARACTERS = 44  # of a line under a title
SIZES = {"labelFontSize": 10, "titleFontSize": 10.5}
TITLE = {"fontSize": 12.5, "subtitleFontSize": 10}


def small(vega: str) -> str:
    """A figure in Vega-Lite with its panels of the usual size made small; its texts stay large enough to be read."""
    spec = json.loads(vega)
    spec["config"]["axis"] |= SIZES
    spec["config"]["title"] |= TITLE
    if isinstance(title := spec.get("title"), dict) and "subtitle" in title:
        lines = [title["subtitle"]] if isinstance(title["subtitle"], str) else title["subtitle"]
        title["subtitle"] = [part for line in lines for part in wrap(line, CHARACTERS)]
    for panel in _panels(spec):
        panel |= {"width": WIDE, "height": HIGH}
        for axis in _axes(panel):
            axis["values"] = axis["values"][:: 1 + (len(axis["values"]) > MOST_TICKS)]
        _named(panel["layer"])
    return json.dumps(spec)


def _panels(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of the usual size, however they are put together."""
    if "layer" in spec and (spec.get("width"), spec.get("height")) == (WIDTH, HEIGHT):
        yield spec
    for key in ("hconcat", "vconcat", "concat"):
        for one in spec.get(key, []):
            yield from _panels(one)


def _axes(panel: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The axes of layers or depth that say which ticks they have, once each."""
    for layer in panel["layer"]:
        axis = layer.get("encoding", {}).get("x", {}).get("axis")
        if isinstance(axis, dict) and isinstance(axis.get("values"), list):
            yield axis


def _named(layers: list[dict[str, Any]]) -> None:
    """Names and their marks, which have places in pixels, moved to where the lines end now."""
    marks = [one for one in layers if {"value"} == {*one.get("encoding", {}).get("y", {})}]
    places = [one["encoding"]["y"]["value"] for one in marks[::2]]  # a mark, then its name
    moved = apart([place * HIGH / HEIGHT for place in places], NAME_GAP, HIGH)
    for i, one in enumerate(marks):
        one["encoding"]["y"]["value"] = moved[i // 2]
        one["encoding"]["x"]["value"] += WIDE - WIDTH
        one["mark"] |= {"fontSize": 10} if one["mark"]["type"] == "text" else {"size": 40}
