"""Stacked charts over layers: shares that sum to 1, named at their right ends."""

import altair as alt
import polars as pl

from actstore_analyze import lines
from actstore_analyze.lines import HEIGHT, WIDTH, Name

__all__ = ["stacked"]

BACKGROUND = "#d5d5d5"
FREE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#000000", "#7F7F7F", "#8C564B")


def stacked(table: pl.DataFrame, *, y_title: str, background: str, opacity: float = 1) -> alt.LayerChart:
    """One column per layer, without gaps; of table: name, layer, share, text (on hover).

    background: the name at the bottom, in grey; the others lie on it in the order of the table.
    """
    names = [background, *(name for name in table["name"].unique(maintain_order=True) if name != background)]
    colours = _colours(names, background)
    order = table.with_columns(pl.col("name").replace_strict({name: i for i, name in enumerate(names)}).alias("order"))
    layers = table["layer"].unique().sort().to_list()
    x = alt.X(
        "layer:O", title="layer", axis=_axis(table["layer"]),
        scale=alt.Scale(domain=layers, paddingInner=0, paddingOuter=0),
    )  # fmt: skip
    y = alt.Y("share:Q", title=y_title, stack="zero", scale=alt.Scale(domain=[0, 1]))
    colour = alt.Color("name:N", legend=None, scale=alt.Scale(domain=names, range=colours))
    bars = (
        alt.Chart(order.select("name", "layer", "share", "order", "text"))
        .mark_bar(stroke="white", strokeWidth=0.7, opacity=opacity)
        .encode(x, y, colour, alt.Order("order:Q"), alt.Tooltip("text:N"), alt.Description("text:N"))
    )
    return alt.LayerChart(layer=[bars, *_names(order, names, colours)], width=WIDTH, height=HEIGHT)


def _names(table: pl.DataFrame, names: list[str], colours: list[str]) -> list[alt.Chart]:
    """Each name beside its share at the last layer."""
    last = table.filter(pl.col("layer") == pl.col("layer").max()).sort("order")
    share = dict(last.select("name", "share").iter_rows())
    middles, below = [], 0.0
    for name in names:
        middles.append(below + share.get(name, 0) / 2)
        below += share.get(name, 0)
    places = lines.apart([HEIGHT * (1 - middle) for middle in middles])
    said = [Name(name, 0, colour, "square") for name, colour in zip(names, colours, strict=True)]
    return [part for name, place in zip(said, places, strict=True) for part in lines.written(name, place)]


def _colours(names: list[str], background: str) -> list[str]:
    """A role's own colour, others from those left."""
    free = iter(FREE * len(names))
    return [
        BACKGROUND if name == background else lines.STYLES[name].colour if name in lines.STYLES else next(free)
        for name in names
    ]


def _axis(layers: pl.Series) -> alt.Axis:
    axis = lines.layer_axis(layers)
    return alt.Axis(values=axis["values"], labelAngle=0, grid=False)
