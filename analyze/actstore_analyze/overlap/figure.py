"""Figures of neighbourhood overlap: with labels, and with other vectors."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.charts import (
    chance,
    counts,
    decimals,
    error_band,
    has_interval,
    heading,
    pale,
    queried,
    series,
)
from actstore_analyze.published.curves import other_chance

__all__ = ["ceiling", "data_overlap", "overlap"]

NOTHING = pl.lit("")


def overlap(
    table: pl.DataFrame, *, title: str, reference: pl.DataFrame | None = None, end: float | None = None
) -> alt.LayerChart:
    """Label overlap over layers, one line per role, chance as a rule; `table` as `actstore overlap` makes it.

    reference: published curves (published.overlap), drawn pale at the same relative depth for the roles of `table`.
    end: of the y axis, for charts that are set beside each other.
    """
    behind, level = _behind(reference, table), chance(table)
    theirs, remark = other_chance(next(iter(level.values()))) if behind.height else ({}, [])
    chart = lines.over_layers(
        _drawn(table),
        y_title=f"label overlap χ (k = {_neighbors(table)})",
        ceiling=end or ceiling([table], reference),
        rules={**level, **theirs},
        behind=behind,
    )
    note = f"n = {counts(table)} samples{queried(table)}, {table['metric'][0]} distance{_band(table)}"
    titled: alt.LayerChart = chart.properties(
        title=heading(title, [note, *pale(reference if behind.height else None), *remark])
    )
    return titled


def ceiling(tables: Sequence[pl.DataFrame], reference: pl.DataFrame | None = None) -> float:
    """The end of a y axis that the overlaps of all tables fit under with their bands, their chance and what is drawn
    behind."""
    behind = [_behind(reference, table)["value"] for table in tables]
    reach = pl.max_horizontal("value", "high")
    own = [pl.concat([_drawn(table).select(reach).to_series(), table["chance"]]) for table in tables]
    return lines.top(pl.concat([*own, *behind]).to_list())


def _band(table: pl.DataFrame) -> str:
    """What the bands are."""
    return "; band: 95 % interval" if has_interval(table) else error_band(table)


def _neighbors(table: pl.DataFrame) -> int:
    """How many neighbours a point had; results saved by 0.1.0 have it as `k`."""
    return int(table["neighbors" if "neighbors" in table.columns else "k"][0])


def _drawn(table: pl.DataFrame, other: pl.Expr = NOTHING) -> pl.DataFrame:
    """What the marks need: NaN as a gap, the band of the interval or the standard error, the text of each point.

    other: what is said of what it overlaps with.
    """
    value, error = pl.col("overlap").fill_nan(None), pl.col("se")
    said = pl.format("{}, layer {}: overlap {}", series(), "layer", decimals(value))
    if has_interval(table):
        low, high = pl.col("low"), pl.col("high")
        band = pl.format(" ({} to {})", decimals(low), decimals(high)).fill_null("")
    else:
        low, high = value - error, value + error
        band = pl.format(" ± {} (se)", decimals(error)).fill_null("")
    rest = pl.format(", chance {}, n = {}", decimals(pl.col("chance")), "n")
    text = pl.concat_str(said, band, other, rest).alias("text")
    return table.select(
        series(),
        "role",
        "layer",
        value.alias("value"),
        low.alias("low"),
        high.alias("high"),
        text,
    )


def _behind(reference: pl.DataFrame | None, table: pl.DataFrame) -> pl.DataFrame:
    """The published curves of roles that the table has, on its layers: the same relative depth."""
    if reference is None:
        return lines.NOTHING_BEHIND
    own = set(table["role"])
    inner = (pl.col("role") == "image") & ("image" not in own)  # the paper's words say image, its code the mean
    mean = next((role for role in table["role"] if role.startswith("image-mean-without")), "image-mean")
    own_mean = pl.lit("image-mean" if "image-mean" in own else mean)
    role = pl.when(inner).then(own_mean).otherwise("role").alias("role")
    per_depth = table.filter(pl.col("depth") > 0).select((pl.col("layer") / pl.col("depth")).max()).item() or 1.0
    where = pl.format("{}, {}, relative depth {}", "model", "series", decimals(pl.col("depth"), 2))
    text = pl.concat_str(where, pl.format(": overlap {} (published, not measured here)", decimals(pl.col("value"))))
    moved = reference.select(
        pl.format("published {}", "series").alias("series"),
        role,
        (pl.col("depth") * per_depth).alias("layer"),
        "value",
        text.alias("text"),
        "alone",
    )
    return moved.filter(pl.col("role").is_in(own))


def data_overlap(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.LayerChart:
    """Data overlap over layers, one line per role, chance as a rule."""
    drawn = _drawn(table, pl.format(" with {} at layer {}", "with_role", "with_layer"))
    chart = lines.over_layers(
        drawn,
        y_title=f"data overlap (k = {_neighbors(table)})",
        ceiling=ceiling([table, *tables]),
        rules=charts.chance(table),
    )
    sampled = f"n = {counts(table)} samples{queried(table)}"
    note = f"{sampled}, {table['metric'][0]} distance; with {_partner(table)}{_band(table)}"
    titled: alt.LayerChart = chart.properties(title=heading(title, note))
    return titled


def _partner(table: pl.DataFrame) -> str:
    """What the roles were compared with, as far as it is one thing."""
    roles, layers, conditions = (
        table[name].unique().to_list() for name in ("with_role", "with_layer", "with_condition")
    )
    said = [roles[0] if len(roles) == 1 else "the same role"]
    said += [f"layer {layers[0]}" if len(layers) == 1 else "the same layer"]
    said += [conditions[0]] if len(conditions) == 1 and conditions[0] != "none" else []
    return ", ".join(said)
