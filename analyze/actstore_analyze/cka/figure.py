"""Figure of linear CKA: how alike each layer of one side is to each layer of the other."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts.charts import counts, decimals, has_interval, heading
from actstore_analyze.charts.heat import heat
from actstore_analyze.charts.lines import LAYER

__all__ = ["cka"]

COLUMNS = 3
SIDES = ("role", "condition", "with_store", "with_role", "with_condition")


def cka(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.VConcatChart:  # noqa: ARG001
    """A heat map for each role, and each condition, over its layers and those of what it is compared with."""
    panels = [_panel(pair) for _, pair in table.group_by(*SIDES, maintain_order=True)]
    rows = [alt.hconcat(*panels[i : i + COLUMNS], spacing=30) for i in range(0, len(panels), COLUMNS)]
    kind = "unbiased linear CKA" if table["unbiased"][0] else "linear CKA"
    note = [f"{kind}, n = {counts(table)} samples", "ring: the layer that a row is most like, itself left out"]
    chart: alt.VConcatChart = alt.vconcat(*rows, spacing=24).properties(title=heading(title, note))
    return chart


def _panel(pair: pl.DataFrame) -> alt.LayerChart:
    role, condition, with_store, with_role, with_condition = pair.select(*SIDES).row(0)
    own, its = _named(role, condition, None), _named(with_role, with_condition, with_store)
    value = pl.col("cka").fill_nan(None)
    other = pl.col("layer") != pl.col("with_layer") if own == its else pl.lit(value=True)
    best = pl.when(other).then(value).max().over("layer") == value
    sides = "layer", pl.lit(its), "with_layer", decimals(value)
    text = pl.format("{}, layer {} with {}, layer {}: {}", pl.lit(own), *sides)
    if has_interval(pair):
        ends = pl.format(", 95 % interval {} to {}", decimals(pl.col("low")), decimals(pl.col("high")))
        text = pl.concat_str(text, ends.fill_null(""))
    drawn = pair.select(
        row="layer", column="with_layer", value=value, marked=(best & other).fill_null(value=False), text=text
    )  # fmt: skip
    return heat(drawn, row_title=f"{own}, {LAYER}", column_title=f"{its}, {LAYER}", value_title="CKA")


def _named(role: str, condition: str, store: str | None) -> str:
    return ", ".join([*([] if store is None else [store]), role, *([] if condition == "none" else [condition])])
