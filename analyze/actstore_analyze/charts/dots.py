"""Values with their intervals in rows, each with a name."""

import altair as alt
import polars as pl

from actstore_analyze.charts.lines import GREY, INK, WIDTH

__all__ = ["dots"]

ROW = 24  # pixels for each name


def dots(drawn: pl.DataFrame, *, title: str, ends: tuple[float, float], rule: float | None = None) -> alt.LayerChart:
    """A row for each name, in their order: value, a rule from low to high, NULL for none, and the text of either.

    title: what the values are; ends: of their axis; rule: a value that a dotted line is at.
    """
    names = drawn["name"].unique(maintain_order=True).to_list()
    chart = alt.Chart(drawn.select("name", "value", "low", "high", "text"))
    scale = alt.Scale(domain=[*ends], nice=False)
    x = alt.X("value:Q", title=title, scale=scale, axis=alt.Axis(titlePadding=2))
    y = alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labelLimit=200, labelPadding=10, grid=True, ticks=False))
    spans = chart.mark_rule(strokeWidth=1.5, color=GREY).encode(alt.X("low:Q"), alt.X2("high:Q"), y)
    points = chart.mark_point(filled=True, size=70, opacity=1, color="#0072B2", stroke=INK, strokeWidth=0.4)
    marks = points.encode(x, y, alt.Tooltip("text:N"), alt.Description("text:N"))
    at = [] if rule is None else [
        alt.Chart(pl.DataFrame({"at": [rule]})).mark_rule(strokeDash=[2, 3], color=GREY).encode(alt.X("at:Q"))
    ]  # fmt: skip
    return alt.LayerChart(layer=[*at, spans, marks], width=WIDTH, height=ROW * len(names))
