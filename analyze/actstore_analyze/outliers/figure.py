"""Figure of norms and massive dimensions."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.charts import counts, decimals, heading, short

__all__ = ["outliers"]

NORMS = ("norm_median", "norm_q25", "norm_q75")


def outliers(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.VConcatChart:
    """Norms over layers, and below them the share of the largest dimension."""
    said = pl.format("{}, layer {}", charts.series(), "layer")
    norms = pl.format("{}: median norm {}, quartiles {} to {}", said, *short(*map(pl.col, NORMS)))
    share = pl.format("{}: dimension {} makes {}", said, "top_dim", decimals(pl.col("top_share")))
    place = (charts.series(), "role", "layer")
    above = table.select(*place, value="norm_median", low="norm_q25", high="norm_q75", text=norms)
    below = table.select(
        *place, value="top_share", low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64), text=share
    )  # fmt: skip
    floor, ceiling = lines.halves([value for one in (table, *tables) for value in one["norm_q75"]])
    highest = lines.top([value for one in (table, *tables) for value in one["top_share"]])
    worst = max(table["massive"].to_list())
    note = f"n = {counts(table)} vectors of a role; massive dimensions: at most {worst}; band: q25 to q75"
    return alt.vconcat(
        lines.over_layers(above, y_title="norm", floor=floor, ceiling=ceiling).properties(title=heading(title, note)),
        lines.over_layers(below, y_title="share of the largest dimension", ceiling=highest),
        spacing=20,
    )
