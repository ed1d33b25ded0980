"""Heat maps: a value for each row and column, dark where it is small, as grey as in colour."""

import altair as alt
import polars as pl

from actstore_analyze.charts.lines import GREY, INK

__all__ = ["heat"]

LARGEST, SMALLEST, SIZE = 14, 6, 260  # pixels: of a cell, and of a whole map
MOST_TICKS = 12


def heat(table: pl.DataFrame, *, row_title: str, column_title: str, value_title: str) -> alt.LayerChart:
    """One cell for each row and column of table, which has value (NULL: grey), marked (a ring) and text (on hover).

    Rows go upwards. Values are between 0 and 1; what lies outside has the colour of the end.
    """
    rows, columns = (table[name].unique().sort().to_list() for name in ("row", "column"))
    cell = max(SMALLEST, min(LARGEST, SIZE // max(len(rows), len(columns))))
    y = alt.Y("row:O", title=row_title, sort=rows[::-1], axis=_axis(rows), scale=alt.Scale(paddingInner=0))
    x = alt.X("column:O", title=column_title, sort=columns, axis=_axis(columns), scale=alt.Scale(paddingInner=0))
    colour = alt.Color(
        "value:Q",
        title=value_title,
        scale=alt.Scale(domain=[0, 1], clamp=True, scheme="viridis"),
        legend=alt.Legend(gradientLength=100, titleFontWeight="normal"),
    )
    cells = (
        alt.Chart(table)
        .mark_rect(invalid="show")
        .encode(
            x,
            y,
            alt.Tooltip("text:N"),
            alt.Description("text:N"),
            color=alt.when("isValid(datum.value)").then(colour).otherwise(alt.value("#cccccc")),
        )
    )
    rings = [
        alt.Chart(table.filter("marked"))
        .mark_point(shape="circle", size=(cell / 2) ** 2, filled=False, stroke=stroke, strokeWidth=width, opacity=1)
        .encode(x, y, alt.Tooltip("text:N"))
        for stroke, width in (("white", 3), (INK, 1.2))  # seen on any colour
    ]
    return alt.LayerChart(layer=[cells, *rings], width=cell * len(columns), height=cell * len(rows))


def _axis(layers: list[int]) -> alt.Axis:
    step = -(-len(layers) // MOST_TICKS)
    return alt.Axis(values=layers[::step], labelAngle=0, grid=False, domainColor=GREY)
