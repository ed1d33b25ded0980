"""Figures of the logit lens."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.charts import counts, decimals, has_interval, heading

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
    ends = {"low": value - error, "high": value + error} if not has_interval(table) else _ends(table, "")
    drawn = _drawn(table, value, **ends, text=text)
    reach = [one["high"] if has_interval(one) else one["probability"] + one["se"].fill_null(0) for one in every]
    chart = lines.over_layers(
        drawn, y_title="probability of the label's token",
        ceiling=lines.top([value for one in (*reach, *(one["probability"] for one in every)) for value in one]),
    )  # fmt: skip
    band = "95 % interval" if has_interval(table) else "one standard error"
    return _titled(chart, title, f"n = {counts(table, 'labelled')} samples; band: {band}")


def _entropy(table: pl.DataFrame, every: Sequence[pl.DataFrame], title: str) -> alt.LayerChart:
    text = pl.format("{}: entropy {} nats; says {}", _where(), decimals(pl.col("entropy"), 2), "top_tokens")
    ceiling = _ceiling(every, "entropy")
    drawn = _drawn(table, pl.col("entropy"), **_ends(table, "entropy_"), text=text)
    chart = lines.over_layers(drawn, y_title="entropy (nats)", ceiling=ceiling)
    return _titled(chart, title, f"n = {counts(table)} samples")


def _divergence(table: pl.DataFrame, every: Sequence[pl.DataFrame]) -> alt.LayerChart:
    text = pl.format("{}: divergence {} nats", _where(), decimals(pl.col("divergence"), 2))
    ceiling = _ceiling(every, "divergence")
    drawn = _drawn(table, pl.col("divergence"), **_ends(table, "divergence_"), text=text)
    return lines.over_layers(drawn, y_title="divergence of the last layer (nats)", ceiling=max(ceiling, 0.1))


def _ceiling(every: Sequence[pl.DataFrame], name: str) -> float:
    columns = [one[column] for one in every for column in (name, f"{name}_high") if column in one.columns]
    return lines.halves([value for column in columns for value in column])[1]


def _ends(table: pl.DataFrame, of: str) -> dict[str, pl.Expr]:
    """The interval of a column; results of versions before have none."""
    return {end: pl.col(of + end) if of + end in table.columns else NO_BAND for end in ("low", "high")}


def _where() -> pl.Expr:
    return pl.format("{}, layer {}", charts.series(), "layer")


def _drawn(table: pl.DataFrame, value: pl.Expr, *, low: pl.Expr, high: pl.Expr, text: pl.Expr) -> pl.DataFrame:
    return table.select(
        charts.series(), "role", "layer", value=value, low=low, high=high, text=text
    )  # fmt: skip


def _titled(chart: alt.LayerChart, title: str, note: str) -> alt.LayerChart:
    titled: alt.LayerChart = chart.properties(title=heading(title, note))
    return titled
