"""Figures: tables of measures as charts that read in grey, by colour-blind readers and without a mouse."""

import re
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from actstore.commands.table import render
from actstore.errors import ActstoreError
from actstore_analyze.charts import lines

__all__ = [
    "beside",
    "ceiling",
    "chance",
    "check",
    "counts",
    "decimals",
    "draw",
    "error_band",
    "heading",
    "overlap",
    "pale",
    "save",
    "series",
    "svg",
]

GREY, FONT = "#5f5f5f", "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
PNG_SCALE = 2

Figure = alt.LayerChart | alt.HConcatChart | alt.VConcatChart | alt.ConcatChart


def overlap(
    table: pl.DataFrame, *, title: str, reference: pl.DataFrame | None = None, end: float | None = None
) -> alt.LayerChart:
    """Label overlap over layers, one line per role, chance as a rule; `table` as `actstore overlap` makes it.

    reference: published curves (published.overlap), drawn pale at the same relative depth for the roles of `table`.
    end: of the y axis, for charts that are set beside each other.
    """
    behind = _behind(reference, table)
    chart = lines.over_layers(
        _drawn(table),
        y_title=f"label overlap χ (k = {table['k'][0]})",
        ceiling=end or ceiling([table], reference),
        rules=chance(table),
        behind=behind,
    )
    note = f"n = {counts(table)} samples, {table['metric'][0]} distance{error_band(table)}"
    titled: alt.LayerChart = chart.properties(title=heading(title, [note, *pale(reference if behind.height else None)]))
    return titled


def heading(title: str, subtitle: str | list[str]) -> alt.TitleParams:
    """A title with a grey line, or several, under it, at the left."""
    return alt.TitleParams(title, subtitle=subtitle, anchor="start", subtitleColor=GREY, subtitlePadding=4, offset=10)


def pale(reference: pl.DataFrame | None, at: str = "relative depth") -> list[str]:
    """The line under a title that says whose curves are drawn pale, none without a reference."""
    return [] if reference is None else [f"pale: {reference['model'][0]} as published, at the same {at}"]


def error_band(table: pl.DataFrame) -> str:
    """What the bands are, where roles have several positions."""
    return "; band: one standard error over positions" if table["se"].count() else ""


def counts(table: pl.DataFrame, column: str = "n") -> str:
    """The different numbers of a column, in words."""
    return ", ".join(f"{n:,}" for n in table[column].unique().sort())


def chance(table: pl.DataFrame) -> dict[str, float]:
    """The chance level as a rule."""
    return {f"chance {level:.3f}": level for level in [table.select(pl.col("chance").mean()).item()]}


def beside(charts: Sequence[Figure]) -> alt.HConcatChart:
    """Charts of several stores, side by side; a name may look otherwise in each."""
    joined: alt.HConcatChart = alt.hconcat(*charts, spacing=30).resolve_scale(
        color="independent", shape="independent", strokeDash="independent"
    )
    return joined


def ceiling(tables: Sequence[pl.DataFrame], reference: pl.DataFrame | None = None) -> float:
    """The end of a y axis that the overlaps of all tables fit under, their chance and what is drawn behind."""
    behind = [_behind(reference, table)["value"] for table in tables]
    own = [pl.concat([table["overlap"].fill_nan(None), table["chance"]]) for table in tables]
    return lines.top(pl.concat([*own, *behind]).to_list())


def save(chart: Figure, data: pl.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write a chart as PNG and SVG and its data as CSV into a folder; returns their paths."""
    paths = [folder / f"{name}{suffix}" for suffix in (".png", ".svg", ".csv")]
    draw(chart, paths[0])
    draw(chart, paths[1])
    render(data, "csv", paths[2])
    return paths


def draw(chart: Figure, path: Path) -> None:
    """Write a chart as .png or .svg, its folder made if need be; raises ActstoreError for another suffix."""
    check(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _styled(chart).save(path, scale_factor=PNG_SCALE if path.suffix == ".png" else 1)
    except OSError as error:
        raise ActstoreError(f"{path.parent}: cannot be written: {error.strerror or error}") from error


def check(path: Path) -> None:
    """Raise ActstoreError for a suffix that no figure has, before anything is computed for it."""
    if path.suffix not in (".png", ".svg"):
        raise ActstoreError(f"{path}: a figure is written as .png or .svg, not '{path.suffix}'")


def svg(chart: Figure, prefix: str) -> str:
    """The chart as SVG to stand inside a page: ids begin with `prefix`, so that several charts do not meet."""
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(_styled(chart).to_json())
    return re.sub(r'(\bid="|url\(#)', rf"\g<1>{prefix}-", text)


def series() -> pl.Expr:
    """The name of a line: its role, and its condition if it has one."""
    plain = pl.col("condition") == "none"
    return pl.when(plain).then("role").otherwise(pl.concat_str("role", "condition", separator=", ")).alias("series")


def _drawn(table: pl.DataFrame) -> pl.DataFrame:
    """What the marks need: NaN as a gap, the band of the standard error, the text of each point."""
    value, error = pl.col("overlap").fill_nan(None), pl.col("se")
    said = pl.format("{}, layer {}: overlap {}", series(), "layer", decimals(value))
    band = pl.format(" ± {} (se)", decimals(error)).fill_null("")
    rest = pl.format(", chance {}, n = {}", decimals(pl.col("chance")), "n")
    text = pl.concat_str(said, band, rest).alias("text")
    return table.select(
        series(),
        "role",
        "layer",
        value.alias("value"),
        (value - error).alias("low"),
        (value + error).alias("high"),
        text,
    )


def decimals(value: pl.Expr, count: int = 3) -> pl.Expr:
    """A number between 0 and 1 as text with so many decimals."""
    return value.round(count).cast(pl.String).str.pad_end(count + 2, "0")


def _behind(reference: pl.DataFrame | None, table: pl.DataFrame) -> pl.DataFrame:
    """The published curves of roles that the table has, on its layers: the same relative depth."""
    if reference is None:
        return lines.NOTHING_BEHIND
    own = set(table["role"])
    inner = (pl.col("role") == "image") & ("image" not in own)  # the paper's words say image, its code the mean
    role = pl.when(inner).then(pl.lit("image-mean")).otherwise("role").alias("role")
    per_depth = table.filter(pl.col("depth") > 0).select((pl.col("layer") / pl.col("depth")).max()).item() or 1.0
    where = pl.format("{}, {}, relative depth {}", "model", "series", decimals(pl.col("depth"), 2))
    text = pl.concat_str(where, pl.format(": overlap {} (published, not measured here)", decimals(pl.col("overlap"))))
    moved = reference.select(
        pl.format("published {}", "series").alias("series"),
        role,
        (pl.col("depth") * per_depth).alias("layer"),
        pl.col("overlap").alias("value"),
        text.alias("text"),
    )
    return moved.filter(pl.col("role").is_in(own))


def _styled(chart: Figure) -> Figure:
    axis = alt.AxisConfig(
        domainColor=GREY,
        tickColor=GREY,
        gridColor="#e8e8e8",
        labelFontSize=11,
        labelFlush=False,
        titleFontSize=12,
        titleFontWeight="normal",
    )
    title = alt.TitleConfig(fontSize=14, subtitleFontSize=12, fontWeight=600)
    view = alt.ViewConfig(stroke=None)
    styled: Figure = chart.configure(font=FONT, background="white", padding=8, axis=axis, title=title, view=view)
    return styled
