"""Stacked charts over layers: shares that sum to 1, named at their right ends."""

from itertools import cycle

import altair as alt
import polars as pl

from actstore_analyze.charts import lines
from actstore_analyze.charts.lines import HEIGHT, WIDTH, Name

__all__ = ["stacked"]

BACKGROUND = "#eeeeee"
# From the top: neighbours are apart in how dark they are, the first three and the background each from any other, so
# that they part in grey and for every eye.
FILLS = (
    "#001f4d",  # blue
    "#ee933a",  # orange
    "#7d4192",  # purple
    "#7fc4e8",  # sky
    "#5a3a00",  # brown
    "#e6a9cc",  # pink
    "#00694a",  # green
    "#c4b22e",  # yellow
)


def stacked(table: pl.DataFrame, *, y_title: str, background: str, opacity: float = 1) -> alt.LayerChart:
    """One column per layer, without gaps; of table: name, layer, share, text (on hover).

    background: the name at the bottom, in grey; the others lie on it in the order of the table. opacity: of all fills.
    """
    names = [background, *(name for name in table["name"].unique(maintain_order=True) if name != background)]
    colours = _colours(names, background)
    order = table.with_columns(pl.col("name").replace_strict({name: i for i, name in enumerate(names)}).alias("order"))
    layers = table["layer"].unique().sort().to_list()
    x = alt.X(
        "layer:O", title="block", axis=_axis(table["layer"]),
        scale=alt.Scale(domain=layers, paddingInner=0, paddingOuter=0),
    )  # fmt: skip
    y = alt.Y("share:Q", title=y_title, stack="zero", scale=alt.Scale(domain=[0, 1]))
    colour = alt.Color("name:N", legend=None, scale=alt.Scale(domain=names, range=colours))
    bars = (
        alt.Chart(order.select("name", "layer", "share", "order", "text"))
        .mark_bar(stroke="white", strokeWidth=0.7, opacity=opacity)
        .encode(x, y, colour, alt.Order("order:Q"), alt.Tooltip("text:N"), alt.Description("text:N"))
    )
    return alt.LayerChart(layer=[bars, *_names(order, names, colours, opacity)], width=WIDTH, height=HEIGHT)


def _names(table: pl.DataFrame, names: list[str], colours: list[str], opacity: float) -> list[alt.Chart]:
    """Each name beside its share at the last layer, with its fill."""
    last = table.filter(pl.col("layer") == pl.col("layer").max()).sort("order")
    share = dict(last.select("name", "share").iter_rows())
    middles, below = [], 0.0
    for name in names:
        middles.append(below + share.get(name, 0) / 2)
        below += share.get(name, 0)
    places = lines.apart([HEIGHT * (1 - middle) for middle in middles])
    said = [Name(name, 0, colour, "square", opacity) for name, colour in zip(names, colours, strict=True)]
    return [part for name, place in zip(said, places, strict=True) for part in lines.written(name, place)]


def _colours(names: list[str], background: str) -> list[str]:
    """The same from the top in every stack, whose top is the end of the image."""
    fills = cycle(FILLS)
    from_the_top = [BACKGROUND if name == background else next(fills) for name in reversed(names)]
    return from_the_top[::-1]


def _axis(layers: pl.Series) -> alt.Axis:
    axis = lines.layer_axis(layers)
    return alt.Axis(values=axis["values"], labelAngle=0, grid=False)
