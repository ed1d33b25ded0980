"""Figure of linear probes."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.charts import counts, decimals, has_interval, heading

__all__ = ["probe"]


def probe(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.LayerChart:  # noqa: ARG001
    """Held-out accuracy over layers, one line per role, the commonest label as a rule."""
    ends = pl.format(" ({} to {})", *(decimals(pl.col(name)) for name in ("low", "high"))).fill_null("")
    text = pl.format(
        "{}, layer {}: accuracy {}{}, n = {}",
        charts.series(), "layer", decimals(pl.col("accuracy")), ends, "held_out",
    )  # fmt: skip
    drawn = table.select(charts.series(), "role", "layer", value="accuracy", low="low", high="high", text=text)
    chart = lines.over_layers(
        drawn, y_title="held-out accuracy", ceiling=1,
        rules={f"commonest {level:.3f}": level for level in [table.select(pl.col("chance").mean()).item()]},
    )  # fmt: skip
    note = f"n = {counts(table, 'held_out')} samples held out{'; band: 95 % interval' if has_interval(table) else ''}"
    titled: alt.LayerChart = chart.properties(title=heading(title, note))
    return titled
