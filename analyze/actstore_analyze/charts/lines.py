"""Line charts over layers: told apart by colour, shape and dash, and named at their right ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import altair as alt
import polars as pl

__all__ = [
    "GREY",
    "HEIGHT",
    "INK",
    "NAME_GAP",
    "NOTHING_BEHIND",
    "STYLES",
    "WIDTH",
    "Name",
    "apart",
    "ends",
    "halves",
    "layer_axis",
    "over_depth",
    "over_layers",
    "top",
    "written",
]

WIDTH, HEIGHT = 300, 250
GREY = "#5f5f5f"
INK = "#222222"
NAME_GAP = 15  # pixels between the names at the right of the lines
LAYER = "layer (0: embeddings)"  # a point of the residual stream; what belongs to a block is titled so
MOST_TICKS = 12
NOTHING_BEHIND = pl.DataFrame(
    schema={
        "series": pl.String,
        "role": pl.String,
        "layer": pl.Float64,
        "value": pl.Float64,
        "text": pl.String,
        "alone": pl.Boolean,
    }
)


@dataclass(frozen=True)
class Style:
    """How a role's line is told from others three times over: colour (Okabe and Ito), shape, dash."""

    colour: str
    shape: str
    dash: tuple[int, ...]


STYLES = {
    "eoi": Style("#0072B2", "circle", (1, 0)),
    "last-image": Style("#D55E00", "square", (6, 2)),
    "image-mean": Style("#009E73", "triangle-up", (2, 2)),
    "image": Style("#CC79A7", "diamond", (8, 2, 2, 2)),
    "last": Style("#000000", "cross", (4, 4)),
    "first-image": Style("#56B4E9", "triangle-down", (10, 3)),
    "random-text": Style("#E69F00", "triangle-left", (1, 3)),
}
OTHERS = (*STYLES.values(), Style("#7F7F7F", "triangle-right", (12, 2, 2, 2)))


class Name(NamedTuple):
    """The name of a line: what is written, the value at the line's right end, the mark before it."""

    text: str
    value: float
    colour: str
    shape: str = "stroke"
    opacity: float = 1.0


def over_layers(
    table: pl.DataFrame,
    *,
    y_title: str,
    ceiling: float,
    floor: float = 0,
    x_title: str = LAYER,
    rules: Mapping[str, float] = MappingProxyType({}),
    behind: pl.DataFrame | None = None,
) -> alt.LayerChart:
    """One line per series of table: series, role, layer, value, low, high (a band, NULL for none), text (on hover).

    Bars stand inside the band where it has inner_low and inner_high, too.
    rules: dotted level lines by name. behind: pale curves, with series, role, layer, value, text, alone.
    """
    first, last = ends(table["layer"])
    behind = NOTHING_BEHIND if behind is None else behind.filter(pl.col("layer").is_between(first, last))
    x = alt.X("layer:Q", title=x_title, scale=alt.Scale(domain=[first, last]), axis=layer_axis(table["layer"]))
    return _chart(table, x, y_title, (floor, ceiling), rules=rules, behind=behind)


def over_depth(
    table: pl.DataFrame,
    *,
    y_title: str,
    ceiling: float,
    floor: float = 0,
    x_title: str = "relative depth",
    behind: pl.DataFrame | None = None,
) -> alt.LayerChart:
    """As `over_layers`, of models of several depths: layer is a share of each model's blocks, [0, 1]."""
    axis = alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format=".1f", grid=False)
    x = alt.X("layer:Q", title=x_title, scale=alt.Scale(domain=[0, 1]), axis=axis)
    return _chart(table, x, y_title, (floor, ceiling), behind=NOTHING_BEHIND if behind is None else behind)


def _chart(
    table: pl.DataFrame,
    x: alt.X,
    y_title: str,
    domain: tuple[float, float],
    *,
    rules: Mapping[str, float] = MappingProxyType({}),
    behind: pl.DataFrame,
) -> alt.LayerChart:
    floor, ceiling = domain
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(domain=[floor, ceiling], nice=False))
    marks = [*_rules(rules, y), *_pale_lines(behind, x, y), *_lines(table, x, y)]
    names = [*_line_names(table), *(Name(text, value, GREY) for text, value in rules.items()), *_pale_names(behind)]
    places = apart([HEIGHT * (ceiling - name.value) / (ceiling - floor) for name in names])
    labels = [part for name, place in zip(names, places, strict=True) for part in written(name, place)]
    return alt.LayerChart(layer=[*marks, *labels], width=WIDTH, height=HEIGHT)


def top(values: Sequence[float | None]) -> float:
    """The end of a y axis from 0 that all finite values fit under, in tenths, at most 1.

    >>> top([0.31, None, 0.1]), top([0.99])
    (0.4, 1.0)
    """
    return min(1.0, math.ceil(10 * max(_known(values)) + 0.3) / 10)


def halves(values: Sequence[float | None]) -> tuple[float, float]:
    """Both ends of a y axis that all finite values fit between, in halves of their order of magnitude, 0 among them.

    >>> halves([0.31, None, -0.02]), halves([12.3, 4.0]), halves([0.0])
    ((-0.05, 0.35), (0.0, 15.0), (0.0, 0.5))
    """
    known = _known(values)
    step = 10.0 ** math.floor(math.log10(max(map(abs, known)) or 1.0)) / 2
    least, most = math.floor(min(known) / step), math.ceil(max(known) / step)
    return round(least * step, 12), round(max(most, least + 1) * step, 12)


def _known(values: Sequence[float | None]) -> list[float]:
    """0 and the values that are numbers and finite."""
    return [0.0, *(value for value in values if value is not None and math.isfinite(value))]


def _styles(table: pl.DataFrame) -> dict[str, Style]:
    """The style of each series; a role has the same in every figure, a second line of it another."""
    styles: dict[str, Style] = {}
    for series, role in table.select("series", "role").unique(maintain_order=True).iter_rows():
        free = [style for style in OTHERS if style not in styles.values()] or list(OTHERS)
        own = STYLES.get(role)
        styles[series] = own if own in free else free[-1]
    return styles


def _lines(table: pl.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    styles = _styles(table)
    names, own = list(styles), list(styles.values())
    colour = alt.Color("series:N", legend=None, scale=alt.Scale(domain=names, range=[one.colour for one in own]))
    dash = alt.StrokeDash("series:N", legend=None, scale=alt.Scale(domain=names, range=[one.dash for one in own]))
    shape = alt.Shape("series:N", legend=None, scale=alt.Scale(domain=names, range=[one.shape for one in own]))
    inner = [name for name in ("inner_low", "inner_high") if name in table.columns]
    chart = alt.Chart(table.select("series", "layer", "value", "low", "high", "text", *inner))
    band = chart.mark_area(opacity=0.15).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), colour)
    line = chart.mark_line(strokeWidth=1.8).encode(x, y, colour, dash)
    point = chart.mark_point(filled=True, size=55, opacity=1).encode(x, y, colour, shape, *_hover())
    bars = [chart.mark_rule(strokeWidth=1.2).encode(x, alt.Y("inner_low:Q"), alt.Y2("inner_high:Q"), colour)]
    return [*([band] if table["low"].count() else []), *(bars if inner else []), line, point]


def _hover() -> tuple[alt.Tooltip, alt.Description]:
    """The text of a point: as tooltip in a notebook, as aria-label in a drawing."""
    return alt.Tooltip("text:N"), alt.Description("text:N")


def _rules(rules: Mapping[str, float], y: alt.Y) -> list[alt.Chart]:
    data = pl.DataFrame({"value": list(rules.values())}, schema={"value": pl.Float64})
    return [alt.Chart(data).mark_rule(color=GREY, strokeDash=[2, 3], strokeWidth=1.2).encode(y)] if rules else []


def _pale_lines(behind: pl.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Wide and pale, whatever the role's dash; their points are there for hover only.

    Points that are alone have no line.
    """
    charts: list[alt.Chart] = []
    for (role,), curve in behind.group_by("role", maintain_order=True):
        chart, colour = alt.Chart(curve), _pale(str(role))
        alone = bool(curve["alone"].any())
        if not alone:
            wide = chart.mark_line(strokeWidth=5, opacity=0.25, color=colour, strokeCap="round")
            charts.append(wide.encode(x, y))
        dots = chart.mark_point(size=120 if alone else 40, opacity=0.4 * alone, filled=True, color=colour)
        charts.append(dots.encode(x, y, *_hover()))
    return charts


def _pale(role: str) -> str:
    return STYLES[role].colour if role in STYLES else GREY


def _line_names(table: pl.DataFrame) -> list[Name]:
    styles = _styles(table)
    ends = table.filter(pl.col("value").is_not_null()).group_by("series", maintain_order=True).last()
    return [
        Name(series, value, styles[series].colour, styles[series].shape)
        for series, value in ends.select("series", "value").iter_rows()
    ]


def _pale_names(behind: pl.DataFrame) -> list[Name]:
    ends = behind.group_by("series", maintain_order=True).last().select("series", "value", "role")
    return [Name(series, value, _pale(role), opacity=0.3) for series, value, role in ends.iter_rows()]


def written(name: Name, place: float) -> list[alt.Chart]:
    """A name right of the lines, `place` pixels from the top, with its line's mark."""
    chart = alt.Chart(pl.DataFrame({"name": [name.text]})).encode(y=alt.value(place))
    stroke = name.shape == "stroke"
    mark = chart.mark_point(
        filled=not stroke,
        size=55,
        shape=name.shape,
        color=name.colour,
        opacity=name.opacity,
        strokeWidth=2 if name.opacity == 1 else 5,
        aria=False,
    )
    text = chart.mark_text(align="left", baseline="middle", fontSize=11, color=GREY if stroke else INK, aria=False)
    return [mark.encode(x=alt.value(WIDTH + 14)), text.encode(alt.Text("name:N"), x=alt.value(WIDTH + 23))]


def apart(places: Sequence[float], gap: float = NAME_GAP, end: float = HEIGHT) -> list[float]:
    """Places moved as little as needed to be `gap` apart, in their order, none beyond `end`.

    >>> apart([100, 50, 101])
    [100, 50, 115]
    >>> apart([248, 250, 10])
    [235, 250, 10]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + gap)
    limit = end
    for i in reversed(order):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved


def ends(layers: pl.Series) -> tuple[int, int]:
    """The first and the last layer of the axis, never the same."""
    ordered = [int(layer) for layer in layers.unique().sort().to_list()]
    return ordered[0], max(ordered[-1], ordered[0] + 1)


def layer_axis(layers: pl.Series) -> alt.Axis:
    """A tick at every layer, or at every second, fourth, ... where they are many."""
    ordered = [int(layer) for layer in layers.unique().sort().to_list()]
    step = 2 ** max(0, math.ceil(math.log2(len(ordered) / MOST_TICKS)))
    shown = [layer for layer in ordered if layer % step == 0] or ordered
    return alt.Axis(values=shown, format="d", grid=False)
