"""Figure of the differences between two stores."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.charts import counts, has_interval, heading

__all__ = ["difference"]


def difference(
    table: pl.DataFrame,
    *,
    title: str,
    tables: Sequence[pl.DataFrame] = (),  # noqa: ARG001
) -> alt.HConcatChart:
    """The difference over layers, a panel for each metric, a line for each role; dotted: none."""
    panels = [_panel(own, str(metric)) for (metric,), own in table.group_by("metric", maintain_order=True)]
    known = table.rename({"difference_low": "low", "difference_high": "high"})
    note = f"less that of {table['minus_store'][0]}, n = {counts(table)} samples of both"
    note += "; band: 95 % interval" if has_interval(known) else ""
    chart: alt.HConcatChart = alt.hconcat(*panels, spacing=30).properties(title=heading(title, note))
    return chart


def _panel(own: pl.DataFrame, metric: str) -> alt.LayerChart:
    value, low, high = (pl.col(f"difference{end}").fill_nan(None) for end in ("", "_low", "_high"))
    role = next((name for name in ("role", "name") if name in own.columns), None)
    named = own.with_columns(pl.lit("median").alias("role") if role is None else pl.col(role).alias("role"))
    ends = pl.format(" ({} to {})", low.round(4), high.round(4)).fill_null("")
    text = pl.format("{}, layer {}: {}{}", charts.series(), "layer", value.round(4), ends)
    drawn = named.select(
        charts.series(), "role", "layer", value=value, low=low, high=high, text=text
    )  # fmt: skip
    floor, ceiling = lines.halves([*drawn["value"], *drawn["low"], *drawn["high"]])
    return lines.over_layers(
        drawn, y_title=f"difference of {metric}", floor=floor, ceiling=ceiling, rules={"the same": 0.0}
    )
