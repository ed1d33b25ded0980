"""Figures of knockouts: what is left over growing windows of blocks, and under each knockout in all blocks."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import lines
from actstore_analyze.charts.charts import counts, decimals, heading, pale
from actstore_analyze.charts.lines import GREY, INK, WIDTH, Name
from actstore_analyze.knockout.study import WORDS
from actstore_analyze.published.curves import other_chance
from actstore_analyze.study.conditions import NONE

__all__ = ["SHOWN", "chance_of", "everywhere", "knockout", "marked", "plain"]

SHOWN = ("overlap", "vqa_accuracy", "cider", "accuracy")  # the others are in the table
MARKS = {  # of a metric where all are drawn on one axis
    "overlap": ("#0072B2", "circle"),
    "vqa_accuracy": ("#D55E00", "square"),
    "cider": ("#009E73", "triangle-up"),
    "accuracy": ("#E69F00", "diamond"),
}
SHORT = {
    "overlap": "label overlap χ",
    "vqa_accuracy": "VQA accuracy",
    "cider": "CIDEr",
    "accuracy": "next token is the label",
}
SOME = pl.col("window").is_null()
ROW = 24  # pixels for each knockout


def knockout(
    table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = (), reference: pl.DataFrame | None = None
) -> alt.VConcatChart:
    """A chart over windows for each metric, and one of the knockouts in all blocks.

    tables: of the charts that stand beside it. reference: a published curve (published.windows), drawn pale.
    """
    known = table.with_columns(value=pl.col("value").fill_nan(None)).filter(pl.col("metric").is_in(SHOWN))
    metrics = known["metric"].unique(maintain_order=True).to_list()
    over = {
        metric: chart
        for metric in metrics
        if (chart := _over_windows(known, metric, tables, reference if metric == "overlap" else None)) is not None
    }
    charts: list[alt.LayerChart] = [*over.values(), _in_all_blocks(known, metrics, tables)]
    behind = pale(reference if "overlap" in over else None, at="share of the blocks")
    behind += other_chance(chance_of(known, "overlap"))[1] if behind else []
    note = f"n = {counts(table)} samples"
    charts[0] = charts[0].properties(title=heading(title, [note, *_intervals(known), *behind]))
    return alt.vconcat(*charts, spacing=22)


def chance_of(table: pl.DataFrame, metric: str) -> float | None:
    """The chance level of a metric, as the row of the model as it is has it; None where there is none."""
    if "chance" not in table.columns:
        return None
    found = table.filter(pl.col("metric") == metric, pl.col("knockout") == NONE)["chance"]
    return found[0] if len(found) else None


def _intervals(table: pl.DataFrame) -> list[str]:
    """The line under the title that says what bands and bars are, as far as there are some."""
    said = {
        "95 % intervals": table["low"].count(),
        "of repeats one standard deviation over draws": table["spread"].count(),
    }
    return ["bands and bars: " + ", ".join(text for text, n in said.items() if n)] if any(said.values()) else []


def everywhere(table: pl.DataFrame) -> pl.DataFrame:
    """The rows of the model as it is, and of knockouts in all blocks, or in some that are not the last, with a star."""
    whole = table.filter((pl.col("knockout") == NONE) | pl.col("window").eq_missing(pl.col("blocks")) | SOME)
    return whole.with_columns(name=plain(pl.col("knockout")) + pl.when(SOME).then(pl.lit(" *")).otherwise(pl.lit("")))


def plain(knockout: pl.Expr) -> pl.Expr:
    """What is blocked, without the word that all share: eoi of eoi-knockout."""
    return knockout.str.replace("-knockout", "", literal=True)


def _over_windows(
    table: pl.DataFrame, metric: str, tables: Sequence[pl.DataFrame], reference: pl.DataFrame | None
) -> alt.LayerChart | None:
    """One line per knockout that was run in windows, all from the model as it is; None without any."""
    own = table.filter(pl.col("metric") == metric, pl.col("window").is_not_null())
    windows = own.filter(pl.col("knockout") != NONE).group_by("knockout", maintain_order=True)
    several = [name for (name,), rows in windows if rows["window"].n_unique() > 1]
    if not several:
        return None
    start = own.filter(pl.col("knockout") == NONE)
    drawn = pl.concat(
        pl.concat([start, own.filter(pl.col("knockout") == name)]).with_columns(series=plain(pl.lit(name)))
        for name in several
    )
    said = pl.format("{}, last {} blocks: {} {}", "series", "window", pl.lit(WORDS[metric]), decimals(pl.col("value")))
    band = pl.when(pl.col("spread").is_not_null())
    drawn = drawn.select(
        "series", role="series", layer="window", value="value",
        low=band.then(pl.col("value") - pl.col("spread")).otherwise("low"),
        high=band.then(pl.col("value") + pl.col("spread")).otherwise("high"),
        text=said,
    )  # fmt: skip
    behind = _behind(reference, several, int(own["blocks"][0]))
    level = chance_of(own, metric)
    rules = {} if level is None else {f"chance {level:.3f}": level}
    rules |= {} if behind is None else other_chance(level)[0]
    return lines.over_layers(
        drawn,
        y_title=WORDS[metric],
        x_title="last blocks in which attention is blocked",
        ceiling=_end([*tables, table], metric, [] if behind is None else behind["value"].to_list()),
        rules=rules,
        behind=behind,
    )


def _behind(reference: pl.DataFrame | None, knockouts: Sequence[object], blocks: int) -> pl.DataFrame | None:
    """The published curves of these knockouts, at the same share of the blocks."""
    if reference is None:
        return None
    text = pl.format(
        "{}, {}, last {} blocks: overlap {} (published, not measured here)",
        "model", "knockout", "window", decimals(pl.col("value")),
    )  # fmt: skip
    role = plain(pl.col("knockout"))
    return reference.filter(pl.col("knockout").is_in(knockouts)).select(
        pl.format("published {}", role).alias("series"), role.alias("role"),
        (pl.col("depth") * blocks).alias("layer"), "value", text.alias("text"), "alone",
    )  # fmt: skip


def _end(tables: Sequence[pl.DataFrame], metric: str, more: Sequence[float] = ()) -> float:
    """The end of the axis of a metric, with its bands: CIDEr alone goes beyond 1."""
    reach = pl.max_horizontal("value", "high", pl.col("value") + pl.col("spread"))
    own = pl.concat(table.filter(pl.col("metric") == metric).select(reach.fill_nan(None)) for table in tables)
    known = [*own.to_series().drop_nulls(), *more]
    return lines.top(known) if max(known, default=0) <= 1 else lines.halves(known)[1]


def _in_all_blocks(table: pl.DataFrame, metrics: Sequence[str], tables: Sequence[pl.DataFrame]) -> alt.LayerChart:
    """A row for each knockout in all blocks, a mark for each metric, with its interval or spread."""
    spread = pl.when(pl.col("spread").is_not_null())
    whole = everywhere(table).with_columns(
        low=spread.then(pl.col("value") - pl.col("spread")).otherwise("low"),
        high=spread.then(pl.col("value") + pl.col("spread")).otherwise("high"),
        word=pl.col("metric").replace_strict(WORDS),
    )
    repeats = pl.when(pl.col("repeats") > 1).then(pl.format(", mean of {} draws", "repeats")).otherwise(pl.lit(""))
    bounds = pl.when(pl.col("low").is_not_null()).then(
        pl.format(" ({} to {})", *(decimals(pl.col(name)) for name in ("low", "high")))
    ).otherwise(pl.lit(""))  # fmt: skip
    text = pl.format("{}: {} {}{}{}{}", "name", "word", decimals(pl.col("value")), bounds, _change(table), repeats)
    whole = whole.with_columns(text=text).filter(pl.col("value").is_not_null())
    names = whole["name"].unique(maintain_order=True).to_list()
    shown = [metric for metric in metrics if metric in set(whole["metric"])]
    ends = [_end([*tables, table], metric) for metric in shown]
    title = "in all blocks" + (" (*: in some)" if any(name.endswith("*") for name in names) else "")
    return marked(whole, shown, title, max(ends, default=1.0))


def _change(table: pl.DataFrame) -> pl.Expr:
    """How far it is from the model as it is, in words; results of versions before do not say it."""
    if "difference" not in table.columns:
        return pl.lit("")
    numbers = (decimals(pl.col(name)) for name in ("difference", "difference_low", "difference_high"))
    return pl.format(", {} from the model as it is ({} to {})", *numbers).fill_null("")


def marked(whole: pl.DataFrame, shown: Sequence[str], title: str, end: float) -> alt.LayerChart:
    """A row for each name, a mark for each metric that is shown: name, metric, value, low, high, text."""
    names = whole["name"].unique(maintain_order=True).to_list()
    x = alt.X("value:Q", title=title, scale=alt.Scale(domain=[0, end], nice=False))
    y = alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labelLimit=260, labelPadding=8, grid=True, ticks=False))
    chart = alt.Chart(whole.select("name", "metric", "value", "low", "high", "text"))
    spans = chart.mark_rule(strokeWidth=1.5, color=GREY).encode(alt.X("low:Q"), alt.X2("high:Q"), y)
    layers = [spans] if whole["low"].count() else []
    for metric in shown:
        colour, form = MARKS[metric]
        points = chart.transform_filter(alt.datum.metric == metric)
        points = points.mark_point(
            filled=True, size=70, opacity=1, color=colour, shape=form, stroke=INK, strokeWidth=0.4
        )
        layers.append(points.encode(x, y, alt.Tooltip("text:N"), alt.Description("text:N")))
    places = [ROW / 2 + lines.NAME_GAP * i for i in range(len(shown))]
    legend = [Name(SHORT[metric], 0, *MARKS[metric]) for metric in shown]
    layers += [part for name, place in zip(legend, places, strict=True) for part in lines.written(name, place)]
    return alt.LayerChart(layer=layers, width=WIDTH, height=ROW * len(names))
