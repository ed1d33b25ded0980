"""Figures: tables of measures as charts that read in grey, by colour-blind readers and without a mouse."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import TypeVar

import altair as alt
import polars as pl

from actstore.commands import outputs
from actstore.commands.outputs import written
from actstore.commands.table import render
from actstore.errors import ActstoreError, visible
from actstore.format.given import suffix_of
from actstore_analyze.charts import lines
from actstore_analyze.charts.fitted import fitted

__all__ = [
    "Axis",
    "Draw",
    "Figure",
    "behind",
    "beside",
    "chance",
    "check",
    "counts",
    "decimals",
    "draw",
    "error_band",
    "has_interval",
    "heading",
    "pale",
    "png",
    "queried",
    "save",
    "series",
    "short",
    "svg",
    "titled",
    "vega_lite",
]

GREY, FONT = "#5f5f5f", "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
PNG_SCALE = 2
SUFFIXES = (".png", ".svg", ".pdf")
WIDTH = 90  # characters of a line under a title
MOST_SAID = 300  # characters of what a renderer says
ESCAPED = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u....|.)")  # a character, as JSON may write it
Figure = alt.LayerChart | alt.HConcatChart | alt.VConcatChart | alt.ConcatChart
Draw = Callable[..., Figure]
T = TypeVar("T")
Axis = tuple[float, float]


def heading(title: str, subtitle: str | list[str]) -> alt.TitleParams:
    """A title with a grey line, or several, under it, at the left."""
    return alt.TitleParams(title, subtitle=subtitle, anchor="start", subtitleColor=GREY, subtitlePadding=4, offset=10)


def pale(reference: pl.DataFrame | None, at: str = "relative depth") -> list[str]:
    """The lines under a title that say whose curves are drawn pale and how exact they are; none without a reference."""
    if reference is None:
        return []
    said = wrap(f"({reference['said'][0]})", WIDTH) if "said" in reference.columns else []
    return [f"pale: {reference['model'][0]} as published, at the same {at}", *said]


def error_band(table: pl.DataFrame) -> str:
    """What the bands are, where roles have several positions."""
    over = "samples" if "copies" in table.columns else "positions"  # as versions before the column took it
    return f"; band: one standard error over {over}" if table["se"].count() else ""


def has_interval(table: pl.DataFrame) -> bool:
    """Whether it says 95 % intervals; results of versions before have none."""
    return "low" in table.columns and table["low"].count() > 0


def counts(table: pl.DataFrame, column: str = "n") -> str:
    """The different numbers of a column, in words."""
    return ", ".join(f"{n:,}" for n in table[column].unique().sort())


def queried(table: pl.DataFrame, error: str = "se") -> str:
    """How many samples were drawn to look for their neighbours, and the column of what that puts values off by."""
    if "queries" not in table.columns:
        return ""
    largest = table[error].max() if error in table.columns else None
    off = f" (standard error up to {largest:.2g})" if isinstance(largest, float) else ""
    return f", {counts(table, 'queries')} of them drawn{off}"


def chance(table: pl.DataFrame) -> dict[str, float]:
    """The chance level as a rule."""
    return {f"chance {level:.3f}": level for level in [table.select(pl.col("chance").mean()).item()]}


def beside(charts: Sequence[Figure]) -> alt.HConcatChart:
    """Charts of several stores, side by side; a name may look otherwise in each."""
    joined: alt.HConcatChart = alt.hconcat(*charts, spacing=30).resolve_scale(
        color="independent", shape="independent", strokeDash="independent"
    )
    return joined


def save(chart: Figure, data: pl.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write a chart as PNG, SVG and PDF and its data as CSV into a folder; returns their paths."""
    *drawn, table = [folder / f"{name}{suffix}" for suffix in (*SUFFIXES, ".csv")]
    picture = _picture(vega_lite(chart))
    for path in drawn:
        _write(picture, path)
    render(data, "csv", table)
    return [*drawn, table]


def draw(chart: Figure, path: Path) -> None:
    """Write a chart as .png, .svg or .pdf, its folder made if need be, whole or not at all; raises ActstoreError for
    another suffix, and for a path inside a store.
    """
    check(path)
    _write(_picture(vega_lite(chart)), path)


def _write(picture: str, path: Path) -> None:
    import vl_convert

    with written(path) as draft:
        if suffix_of(path) == ".png":
            draft.write_bytes(_converted(vl_convert.svg_to_png, picture, scale=PNG_SCALE))
        elif suffix_of(path) == ".pdf":
            draft.write_bytes(_converted(vl_convert.svg_to_pdf, picture))
        else:
            draft.write_text(fitted(picture), encoding="utf-8")


def _picture(vega: str) -> str:
    """A chart as SVG, of which its other forms are made: Vega takes longer than all of these."""
    import vl_convert

    return _converted(vl_convert.vegalite_to_svg, vega)


def _converted(convert: Callable[..., T], drawing: str, **options: float) -> T:
    """What vl_convert makes of a drawing; ActstoreError where it cannot, as which it may panic."""
    try:
        return convert(drawing, **options)
    except BaseException as error:
        if isinstance(error, ValueError) or type(error).__name__ == "PanicException":
            line = " ".join(str(error).split())
            raise ActstoreError(f"the figure cannot be drawn ({line[:MOST_SAID]})") from None
        raise


def vega_lite(chart: Figure, *, validate: bool = False) -> str:
    """The chart as JSON of Vega-Lite; its schema is a matter of tests, which validate what every measure draws.

    Control characters in it are made visible: over one, vl_convert aborts the process.
    """
    with alt.data_transformers.enable("default", max_rows=None):  # every row of a table is drawn
        return ESCAPED.sub(_shown, _styled(chart).to_json(validate=validate, ensure_ascii=True))


def check(path: Path) -> None:
    """Raise ActstoreError for a suffix that no figure has or a path in a store, before anything is computed for it."""
    outputs.check(path)
    if suffix_of(path) not in SUFFIXES:
        raise ActstoreError(f"{path}: a figure is written as {', '.join(SUFFIXES)}, not '{path.suffix}'")


def svg(chart: Figure, prefix: str, *, smaller: Callable[[str], str] | None = None) -> str:
    """The chart as SVG to stand inside a page: ids begin with `prefix`, so that several charts do not meet.

    smaller: what makes another drawing of its Vega-Lite, such as `small.small`.
    """
    vega = vega_lite(chart)
    return re.sub(r'(\bid="|url\(#)', rf"\g<1>{prefix}-", fitted(_picture(vega if smaller is None else smaller(vega))))


def png(chart: Figure) -> bytes:
    """The chart as PNG."""
    import vl_convert

    return _converted(vl_convert.svg_to_png, _picture(vega_lite(chart)), scale=PNG_SCALE)


def _shown(escaped: re.Match[str]) -> str:
    return json.dumps(visible(json.loads(f'"{escaped[0]}"'), lines=True))[1:-1]


def series() -> pl.Expr:
    """The name of a line: its role, and its condition if it has one."""
    plain = pl.col("condition") == "none"
    return pl.when(plain).then("role").otherwise(pl.concat_str("role", "condition", separator=", ")).alias("series")


def decimals(value: pl.Expr, count: int = 3) -> pl.Expr:
    """A number between 0 and 1 as text with so many decimals."""
    return value.round(count).cast(pl.String).str.pad_end(count + 2, "0")


def _styled(chart: Figure) -> Figure:
    axis = alt.AxisConfig(
        domainColor=GREY,
        tickColor=GREY,
        gridColor="#e8e8e8",
        labelFontSize=11,
        labelFlush=False,
        titleFontSize=12,
        titleFontWeight="normal",
        labelLimit=0,
        titleLimit=0,
    )
    title = alt.TitleConfig(fontSize=14, subtitleFontSize=12, fontWeight=600)
    view = alt.ViewConfig(stroke=None)
    whole = alt.LegendConfig(labelLimit=0, titleLimit=0)  # no name is cut
    styled: Figure = chart.configure(
        font=FONT, background="white", padding=8, axis=axis, title=title, view=view, legend=whole
    )
    return styled


def titled(
    drawn: pl.DataFrame, title: str, note: str | list[str], y_title: str, axis: Axis, pale: pl.DataFrame | None = None
) -> alt.LayerChart:
    """Lines over layers under a title and a grey line; pale: published curves behind them."""
    floor, ceiling = axis
    chart = lines.over_layers(drawn, y_title=y_title, floor=floor, ceiling=max(ceiling, floor + 0.1), behind=pale)
    headed: alt.LayerChart = chart.properties(title=heading(title, note))
    return headed


def behind(reference: pl.DataFrame | None, table: pl.DataFrame, role: str) -> pl.DataFrame | None:
    """A published curve at the same relative depth as the layers of a table, in the colour of a role."""
    if reference is None:
        return None
    per_depth = table.filter(pl.col("depth") > 0).select((pl.col("layer") / pl.col("depth")).max()).item() or 1.0
    text = pl.format("{}, layer {}: {} (published, not measured here)", "model", "layer", decimals(pl.col("value")))
    return reference.select(
        pl.format("published {}", "model").alias("series"),
        pl.lit(role).alias("role"),
        (pl.col("depth") * per_depth).alias("layer"),
        "value",
        text.alias("text"),
        "alone",
    )


def short(*values: pl.Expr) -> list[pl.Expr]:
    """Numbers as text with two decimals."""
    return list(map(partial(decimals, count=2), values))
