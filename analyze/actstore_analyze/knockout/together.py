"""Knockouts of several models in one figure: over windows, and what is left as a share of the model as it is."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import lines
from actstore_analyze.charts.charts import decimals, heading
from actstore_analyze.charts.together import Panel, Tables, curves, one_panel_each
from actstore_analyze.knockout.figure import SHOWN, chance_of, everywhere, marked, plain
from actstore_analyze.knockout.study import WORDS, with_share
from actstore_analyze.published.curves import other_chance
from actstore_analyze.study.conditions import NONE

__all__ = ["together"]


def together(tables: Tables, *, title: str, references: Sequence[pl.DataFrame] = ()) -> alt.VConcatChart:
    """A panel for each metric over growing windows, as a share of the blocks; below them what is left of each metric.

    references: published label overlaps over windows.
    """
    panels = [panel for metric in SHOWN if (panel := _windows(tables, metric, references)) is not None]
    left = _shares(tables)
    note = "attention blocked in the last blocks" if panels else "attention blocked in all blocks"
    if not panels and left is None:
        note += "; of a model that scores 0 as it is no share is left"
    levels = [level for table in tables.values() if (level := chance_of(table, "overlap")) is not None]
    remarks = [line for level in levels[:1] for line in other_chance(level)[1]] if references else []
    charts = [one_panel_each(panels, title, note, at="share of the blocks", remarks=remarks)] if panels else []
    rest = [left] if left is not None else [] if panels else [alt.LayerChart(layer=[_nothing()])]
    joined: alt.VConcatChart = alt.vconcat(*charts, *rest, spacing=24)
    return joined if panels else joined.properties(title=heading(title, note))


def _nothing() -> alt.Chart:
    bare: alt.Chart = alt.Chart(pl.DataFrame({"x": [0]})).mark_point(opacity=0)
    return bare


def _windows(tables: Tables, metric: str, references: Sequence[pl.DataFrame]) -> Panel | None:
    own = {store: _over_windows(table, metric) for store, table in tables.items()}
    own = {store: rows for store, rows in own.items() if rows.height}
    if not own:
        return None
    drawn = curves(own, lambda rows: rows, "blocks blocked")
    ends = [*drawn["value"], *drawn["high"]]
    axis = (
        (0.0, lines.top(ends)) if max((one for one in ends if one is not None), default=0) <= 1 else lines.halves(ends)
    )
    behind = [
        curve.with_columns(series=plain(pl.col("knockout")))
        for one in references
        if metric == "overlap"
        for _, curve in one.group_by("knockout", maintain_order=True)
    ]
    axis = (axis[0], max([axis[1], *(value for curve in behind for value in curve["value"])]))
    return Panel(drawn, WORDS[metric], axis, behind, "share of the blocks, the last ones")


def _over_windows(table: pl.DataFrame, metric: str) -> pl.DataFrame:
    """own, depth (window / blocks), value, low, high of knockouts that ran in windows, each from the model as it is."""
    rows = table.filter(pl.col("metric") == metric, pl.col("window").is_not_null())
    start = rows.filter(pl.col("knockout") == NONE)
    several = [
        pl.concat([start, own]).with_columns(own=plain(pl.lit(name)))
        for (name,), own in rows.filter(pl.col("knockout") != NONE).group_by("knockout", maintain_order=True)
        if own["window"].n_unique() > 1
    ]
    found = pl.concat(several) if several else rows.clear().with_columns(own=pl.lit(""))
    return found.select("own", "value", "low", "high", depth=pl.col("window") / pl.col("blocks"))


def _shares(tables: Tables) -> alt.LayerChart | None:
    """A row for each store and knockout in all blocks (*: in some), a mark for each metric; None without any."""
    found = pl.concat(
        everywhere(with_share(table)).select(pl.lit(store).alias("store"), "name", "knockout", "metric", "share")
        for store, table in tables.items()
    )
    found = found.filter(pl.col("knockout") != NONE, pl.col("metric").is_in(SHOWN), pl.col("share").is_not_null())
    if not found.height:
        return None
    name, none = pl.format("{}, {}", "store", "name"), pl.lit(None, pl.Float64)
    text = pl.format("{}: {} of {}", name, decimals(pl.col("share")), pl.col("metric").replace(WORDS))
    whole = found.select(name.alias("name"), "metric", value="share", low=none, high=none, text=text)
    shown = [metric for metric in SHOWN if metric in set(found["metric"])]
    return marked(whole, shown, "share of the model as it is", max(1.0, lines.halves(found["share"].to_list())[1]))
