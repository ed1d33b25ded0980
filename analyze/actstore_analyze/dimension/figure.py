"""Figure of intrinsic dimension."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.charts import counts, has_interval, queried, short, titled

__all__ = ["dimension"]


def dimension(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.LayerChart:
    """Intrinsic dimension over layers, one line per role."""
    value = pl.col("id").fill_nan(None)
    low, high = _ends(table)
    text = pl.format(
        "{}, layer {}: dimension {} ({} to {}), n = {}", charts.series(), "layer", *short(value, low, high), "n"
    )
    drawn = table.select(charts.series(), "role", "layer", value=value, low=low, high=high, text=text)
    band = "95 % interval" if has_interval(table) else "one standard error"
    note = f"n = {counts(table)} samples{queried(table, 'error')}, {table['metric'][0]} distance; band: {band}"
    axis = lines.halves(
        [end for one in (table, *tables) for end in one.select(pl.max_horizontal(value, _ends(one)[1])).to_series()]
    )
    return titled(drawn, title, note, f"intrinsic dimension (Gride, rank {table['rank'][0]})", axis)


def _ends(table: pl.DataFrame) -> tuple[pl.Expr, pl.Expr]:
    """Of the band: the interval, or one standard error, which results of versions before have alone."""
    if has_interval(table):
        return pl.col("low"), pl.col("high")
    value, error = pl.col("id").fill_nan(None), pl.col("error").fill_nan(None)
    return value - error, value + error
