"""Several models in one panel over relative depth, as papers show them, with what was published behind."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import altair as alt
import polars as pl

from actstore_analyze.charts import lines
from actstore_analyze.charts.charts import decimals, heading, pale

__all__ = ["Panel", "Together", "curves", "one_panel_each"]

Tables = Mapping[str, pl.DataFrame]  # by the name of a store, what a measure says of it
Together = Callable[..., alt.VConcatChart]
STYLES = list(lines.STYLES)


class Panel(NamedTuple):
    """What one panel shows: own `curves`, its y axis, and published frames (model, depth, value, series)."""

    own: pl.DataFrame
    y_title: str
    axis: tuple[float, float]
    references: Sequence[pl.DataFrame] = ()
    x_title: str = "relative depth"


def curves(tables: Tables, curve: Callable[[pl.DataFrame], pl.DataFrame], what: str) -> pl.DataFrame:
    """series, role (a style for each store), layer (the depth), value, low, high, text, of all stores.

    curve: a table -> own (what tells lines of a store apart, "" for its only one), depth, value, low, high.
    """
    found = [
        curve(table).select(
            pl.when(pl.col("own") == "").then(pl.lit(name)).otherwise(pl.format("{}, {}", pl.lit(name), "own"))
            .alias("series"),
            pl.lit(STYLES[i % len(STYLES)]).alias("role"),
            pl.col("depth").alias("layer"),
            *(pl.col(column).cast(pl.Float64).fill_nan(None) for column in ("value", "low", "high")),
        )
        for i, (name, table) in enumerate(tables.items())
    ]  # fmt: skip
    text = pl.format("{}, {} {}: {}", "series", pl.lit(what), *(decimals(pl.col(one)) for one in ("layer", "value")))
    return pl.concat(found).with_columns(text=text)


def one_panel_each(
    panels: Sequence[Panel],
    title: str,
    note: str,
    *,
    at: str = "relative depth",
    columns: int = 1,
    remarks: Sequence[str] = (),
) -> alt.VConcatChart:
    """The panels in rows of `columns`; under the title what the bands are, whose curves are pale and remarks."""
    charts = [
        lines.over_depth(
            one.own, y_title=one.y_title, floor=one.axis[0], ceiling=max(one.axis[1], one.axis[0] + 0.1),
            x_title=one.x_title, behind=_behind(one.references),
        )
        for one in panels
    ]  # fmt: skip
    published = {frame["model"][0]: frame for one in panels for frame in one.references}
    said = [line for frame in published.values() for line in pale(frame, at)]
    rows = [alt.hconcat(*charts[i : i + columns], spacing=20) for i in range(0, len(charts), columns)]
    joined: alt.VConcatChart = alt.vconcat(*rows, spacing=20).resolve_scale(
        color="independent", shape="independent", strokeDash="independent"
    )
    return joined.properties(title=heading(title, [note, *said, *remarks]))


def _behind(references: Sequence[pl.DataFrame]) -> pl.DataFrame | None:
    """Published curves, grey: what is measured has the colours. Several of a model are told apart by `series`."""
    said = "{}, relative depth {}: {} (published, not measured here)"
    found = []
    for one in references:
        name = pl.format("published {}", "model")
        name = pl.format("{}, {}", name, "series") if "series" in one.columns else name
        text = pl.format(said, name, *(decimals(pl.col(column)) for column in ("depth", "value")))
        found.append(
            one.select(name.alias("series"), name.alias("role"), layer="depth", value="value", text=text, alone="alone")
        )
    return pl.concat(found) if found else None
