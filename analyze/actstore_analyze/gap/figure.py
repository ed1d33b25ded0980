"""Figure of the modality gap."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import lines
from actstore_analyze.charts.charts import behind, counts, decimals, has_interval, pale, titled
from actstore_analyze.charts.together import Panel, Tables, curves, one_panel_each

__all__ = ["gap", "together"]

QUARTILES = ("median", "q25", "q75")


def gap(
    table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = (), reference: pl.DataFrame | None = None
) -> alt.LayerChart:
    """Median cosine of text and image vectors over layers, with its interquartile band, as The Narrow Gate's figure.

    tables: of the charts that stand beside it, so that all have one y axis. reference: a published curve, drawn pale.
    """
    text = pl.format(
        "layer {}: median cosine {}, quartiles {} to {}", "layer", *(decimals(pl.col(c)) for c in QUARTILES)
    )
    ends = [pl.col(end) if has_interval(table) else pl.lit(None, pl.Float64) for end in ("low", "high")]
    interval = pl.format(", 95 % interval of the median {} to {}", *map(decimals, ends)).fill_null("")
    drawn = table.select(
        _condition("text · image").alias("series"), role=pl.lit("image"), layer="layer",
        value="median", low="q25", high="q75", text=pl.concat_str(text, interval), inner_low=ends[0],
        inner_high=ends[1],
    )  # fmt: skip
    published = [] if reference is None else reference["value"].to_list()
    what = "|cosine|" if table["absolute"][0] else "cosine"
    note = [
        f"n = {counts(table, 'n_text')} texts, {counts(table, 'n_image')} images; band: q25 to q75"
        + ("; bars: 95 % interval of the median" if has_interval(table) else ""),
        *pale(reference),
    ]
    axis = lines.halves([value for one in (table, *tables) for c in QUARTILES for value in one[c]] + published)
    return titled(drawn, title, note, f"{what} of text and image vectors", axis, behind(reference, table, "eoi"))


def together(tables: Tables, *, title: str, references: Sequence[pl.DataFrame] = ()) -> alt.VConcatChart:
    """The medians of several stores in one panel over relative depth; references: published curves."""
    own = curves(tables, _curve, "depth")
    what = "|cosine|" if all(table["absolute"][0] for table in tables.values()) else "cosine"
    axis = lines.halves([*own["low"], *own["high"], *(value for one in references for value in one["value"])])
    panel = Panel(own, f"{what} of text and image vectors", axis, references)
    return one_panel_each([panel], title, "median cosine; band: q25 to q75")


def _curve(table: pl.DataFrame) -> pl.DataFrame:
    return table.select(own=_condition(""), depth="depth", value="median", low="q25", high="q75")


def _condition(plain: str) -> pl.Expr:
    return pl.when(pl.col("condition") == "none").then(pl.lit(plain)).otherwise("condition")
