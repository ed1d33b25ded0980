"""Figure of intrinsic dimension."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.charts import counts, short, titled

__all__ = ["dimension"]


def dimension(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.LayerChart:
    """Intrinsic dimension over layers, one line per role."""
    value, error = pl.col("id").fill_nan(None), pl.col("error").fill_nan(None)
    text = pl.format("{}, layer {}: dimension {} ± {}, n = {}", charts.series(), "layer", *short(value, error), "n")
    drawn = table.select(
        charts.series(), "role", "layer",
        value=value, low=value - error, high=value + error, text=text,
    )  # fmt: skip
    note = f"n = {counts(table)} samples, {table['metric'][0]} distance; band: one standard error"
    axis = lines.halves(
        [value for one in (table, *tables) for value in (one["id"] + one["error"].fill_nan(0)).to_list()]
    )
    return titled(drawn, title, note, f"intrinsic dimension (Gride, rank {table['rank'][0]})", axis)
