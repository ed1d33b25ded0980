"""Figures of the logit lens."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.charts import counts, decimals, heading

__all__ = ["lens"]

NO_BAND = pl.lit(None, pl.Float64)


def lens(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.VConcatChart:
    """The right token's probability over layers (the entropy where there is no right one), below it the divergence."""
    every = [table, *tables]
    named = any(one["labelled"].sum() for one in every)
    above = _probability(table, every, title) if named else _entropy(table, every, title)
    if not any(one["divergence"].count() for one in every):
        return alt.vconcat(above)
    return alt.vconcat(above, _divergence(table, every), spacing=20)


def _probability(table: pl.DataFrame, every: Sequence[pl.DataFrame], title: str) -> alt.LayerChart:
    value, error = pl.col("probability"), pl.col("se")
    text = pl.format(
        "{}: probability {}, median rank {}, on top in {} of samples; says {}",
        _where(), decimals(value), pl.col("rank").round(1), decimals(pl.col("right")), "top_tokens",
    )  # fmt: skip
    drawn = _drawn(table, value, low=value - error, high=value + error, text=text)
    chart = lines.over_layers(
        drawn, y_title="probability of the label's token",
        ceiling=lines.top([value for one in every for value in one["probability"] + one["se"].fill_null(0)]),
    )  # fmt: skip
    return _titled(chart, title, f"n = {counts(table, 'labelled')} samples; band: one standard error")


def _entropy(table: pl.DataFrame, every: Sequence[pl.DataFrame], title: str) -> alt.LayerChart:
    text = pl.format("{}: entropy {} nats; says {}", _where(), decimals(pl.col("entropy"), 2), "top_tokens")
    ceiling = lines.halves([value for one in every for value in one["entropy"]])[1]
    drawn = _drawn(table, pl.col("entropy"), low=NO_BAND, high=NO_BAND, text=text)
    chart = lines.over_layers(drawn, y_title="entropy (nats)", ceiling=ceiling)
    return _titled(chart, title, f"n = {counts(table)} samples")


def _divergence(table: pl.DataFrame, every: Sequence[pl.DataFrame]) -> alt.LayerChart:
    text = pl.format("{}: divergence {} nats", _where(), decimals(pl.col("divergence"), 2))
    ceiling = lines.halves([value for one in every for value in one["divergence"]])[1]
    drawn = _drawn(table, pl.col("divergence"), low=NO_BAND, high=NO_BAND, text=text)
    return lines.over_layers(drawn, y_title="divergence of the last layer (nats)", ceiling=max(ceiling, 0.1))


def _where() -> pl.Expr:
    return pl.format("{}, layer {}", charts.series(), "layer")


def _drawn(table: pl.DataFrame, value: pl.Expr, *, low: pl.Expr, high: pl.Expr, text: pl.Expr) -> pl.DataFrame:
    return table.select(
        charts.series(), "role", "layer", value=value, low=low, high=high, text=text
    )  # fmt: skip


def _titled(chart: alt.LayerChart, title: str, note: str) -> alt.LayerChart:
    titled: alt.LayerChart = chart.properties(title=heading(title, note))
    return titled
