"""Figure of the differences of scores between two stores."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import lines
from actstore_analyze.charts.charts import counts, decimals, heading
from actstore_analyze.charts.dots import dots
from actstore_analyze.score.board import words
from actstore_analyze.score.study import ALL

__all__ = ["differences"]


def differences(
    table: pl.DataFrame,
    *,
    title: str,
    tables: Sequence[pl.DataFrame] = (),  # noqa: ARG001
) -> alt.VConcatChart:
    """A chart for each metric, a row for each condition, all splits together; dotted: none."""
    whole = table.filter(pl.col("split") == ALL)
    charts = [_of_metric(own, str(metric)) for (metric,), own in whole.group_by("metric", maintain_order=True)]
    note = f"less that of {table['minus_store'][0]}, n = {counts(whole)} samples of both; rule: 95 % interval"
    charts[0] = charts[0].properties(title=heading(title, note))
    return alt.vconcat(*charts, spacing=12)


def _of_metric(own: pl.DataFrame, metric: str) -> alt.LayerChart:
    value, low, high = (pl.col(f"difference{end}") for end in ("", "_low", "_high"))
    ends = pl.format(" ({} to {})", decimals(low), decimals(high)).fill_null("")
    what = pl.lit(words(metric))
    drawn = own.select(
        name=pl.when(pl.col("condition") == "none").then(pl.lit("as it is")).otherwise("condition"),
        value=value,
        low=low,
        high=high,
        text=pl.format("{}, difference of {}: {}{}, n = {}", "condition", what, decimals(value), ends, "n"),
    )
    floor, ceiling = lines.halves([*drawn["value"], *drawn["low"], *drawn["high"]])
    return dots(drawn, title=f"difference of {words(metric)}", ends=(floor, ceiling), rule=0.0)
