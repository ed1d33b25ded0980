"""Figures of sparse autoencoders: reconstruction as the paper plots it and as its equation says, beside controls."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.charts import counts, decimals, heading, pale

__all__ = ["matched", "rebuilt"]

WIDTH, HEIGHT, COLUMNS = 220, 165, 2
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = {"none": (1, 0), "rotated": (6, 3), "gaussian": (2, 2), "untrained": (9, 3, 2, 3)}
CONTROL_WORDS = {
    "none": "as the model is",
    "rotated": "control: rotated",
    "gaussian": "control: Gaussian",
    "untrained": "control: untrained adapter",
}
ORDERS = {"image-text": "after the image", "text-image": "before the image", "text": "alone"}

# Panels: column of the table, title, axis.
PANELS = (
    ("mse", "As the paper plots it", "mean of (x − x′)²"),
    ("squared_error", "As its equation says", "E, sum of (x − x′)²"),
    ("relative_error", "Relative to the length", "|x − x′| / |x|"),
    ("fvu", "Relative to the variance", "unexplained variance, share"),
    ("l0_fraction", "Sparsity", "S, active features, share"),
    ("cosine", "Direction", "cosine of x and x′"),
)

UNKNOWN = pl.lit(None, pl.Float64)
SHADES = (0.5, 0.2)  # of published points, in the order of their groups

OF_MATCHES = {
    "none": "",
    "shuffled": ", other image",
    "rotated": ", rotated",
    "gaussian": ", Gaussian",
    "untrained": ", untrained adapter",
}


def rebuilt(
    table: pl.DataFrame,
    *,
    title: str,
    tables: Sequence[pl.DataFrame] = (),
    reference: pl.DataFrame | None = None,
) -> alt.HConcatChart:
    """Six panels over layers, a colour and mark for each group, a dash for each control; `table` of `actstore sae`.

    tables: of the charts that stand beside it, so that all have the same y axes. reference: published points of the
    panels that the paper has (metric, group, depth, value), drawn pale.
    """
    drawn, all_of = _named(table), pl.concat([table, *tables], how="vertical_relaxed")
    behind = {name: _behind(reference, table, metric=name) for name, *_ in PANELS}
    panels = [
        _panel(drawn, *panel, _axis(pl.concat([all_of[panel[0]], behind[panel[0]]["value"]])), behind[panel[0]])
        for panel in PANELS
    ]
    note = (
        f"n = {counts(table.filter(control='none'))} vectors of {counts(table, 'samples')} samples, "
        f"averaged per {table['average'][0]}; {counts(table, 'n_features')} features"
        + (f"; at most {counts(table, 'positions')} drawn of each sample" if "positions" in table.columns else "")
        + ("; bands: 95 % intervals" if _has_intervals(table) else "")
    )
    columns = [alt.vconcat(*panels[i::COLUMNS], spacing=22) for i in range(COLUMNS)]
    chart: alt.HConcatChart = alt.hconcat(*columns, spacing=24).properties(
        title=heading(title, [note, *_pale(reference)])
    )
    return chart


def _behind(reference: pl.DataFrame | None, table: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Published points of a metric at the same relative depth: series, role, layer, value, text."""
    if reference is None:
        return lines.NOTHING_BEHIND
    own = reference.filter(metric=metric)
    moved = charts.behind(own, table, "image")
    assert moved is not None
    names = pl.Series([f"published {group}" for group in own["group"]], dtype=pl.String)
    roles = own["group"].str.split(" ").list.first()  # in whose colours points stand alone
    return moved.with_columns(series=names, role=roles)


def _pale(reference: pl.DataFrame | None) -> list[str]:
    """Whose points are pale, and in which shade each group is."""
    if reference is None:
        return []
    first, *rest = reference["group"].unique(maintain_order=True)
    return [*pale(reference), f"darker: {first}" + "".join(f", paler: {one}" for one in rest)]


def group_name(table: pl.DataFrame) -> pl.Expr:
    """The name of a group: its role, where it stands if that differs, its condition if it has one."""
    several = table.select("role", "prompt_order").unique()["role"].is_duplicated().any()
    order = pl.format(" {}", pl.col("prompt_order").replace(ORDERS)).fill_null("") if several else pl.lit("")
    condition = pl.when(pl.col("condition") == "none").then(pl.lit("")).otherwise(pl.format(", {}", "condition"))
    return pl.concat_str("role", order, condition).alias("group")


def _named(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(group_name(table), words=pl.col("control").replace_strict(CONTROL_WORDS))


def _panel(
    drawn: pl.DataFrame, column: str, title: str, axis: str, domain: tuple[float, float], behind: pl.DataFrame
) -> alt.LayerChart:
    value = pl.col(column).fill_nan(None)
    first, last = lines.ends(drawn["layer"])
    low, high = (pl.col(f"{column}_{end}") if _has_intervals(drawn) else UNKNOWN for end in ("low", "high"))
    text = pl.format("{}, {}, layer {}: {}", "group", "words", "layer", value.round_sig_figs(4))
    interval = pl.format(" (95 % interval {} to {})", low.round_sig_figs(4), high.round_sig_figs(4)).fill_null("")
    shown = drawn.select(
        "group", "words", "layer", value.alias("value"), low.alias("low"), high.alias("high"),
        control=pl.col("control") != "none", text=pl.concat_str(text, interval),
    )  # fmt: skip
    chart = alt.Chart(shown)
    x = alt.X(
        "layer:Q", title=lines.LAYER, scale=alt.Scale(domain=[first, last]), axis=lines.layer_axis(drawn["layer"])
    )
    y = alt.Y("value:Q", title=axis, scale=alt.Scale(domain=domain, nice=False), axis=alt.Axis(tickCount=5))
    colour, shape, dash = _scales(drawn)
    faint = alt.condition("datum.control", alt.value(0.65), alt.value(1))
    width = alt.condition("datum.control", alt.value(1.1), alt.value(2))
    line = chart.mark_line().encode(x, y, colour, dash, opacity=faint, strokeWidth=width)
    hover = (alt.Tooltip("text:N"), alt.Description("text:N"))
    size = alt.condition("datum.control", alt.value(16), alt.value(50))
    point = chart.mark_point(filled=True, opacity=1).encode(x, y, colour, shape, *hover, size=size)
    named = alt.TitleParams(title, fontSize=12, anchor="start")
    wide = [
        alt.Chart(curve).mark_point(size=110, opacity=shade, color=lines.GREY, filled=True).encode(x, y, *hover)
        for shade, (_, curve) in zip(SHADES, behind.group_by("series", maintain_order=True), strict=False)
    ]
    band = chart.transform_filter("!datum.control").mark_area(opacity=0.18, clip=True).encode(
        x, alt.Y("low:Q"), alt.Y2("high:Q"), colour
    )  # fmt: skip
    bands = [band] if shown["low"].count() else []
    return alt.LayerChart(layer=[*wide, line, point, *bands], width=WIDTH, height=HEIGHT, title=named)


def _has_intervals(table: pl.DataFrame) -> bool:
    """Results of versions before have none."""
    return "fvu_low" in table.columns


def _scales(drawn: pl.DataFrame) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    groups = drawn["group"].unique(maintain_order=True).to_list()
    words = [word for word in CONTROL_WORDS.values() if word in set(drawn["words"])]
    dashes = [DASHES[control] for control, word in CONTROL_WORDS.items() if word in words]
    legend = alt.Legend(title=None, orient="bottom", labelLimit=300, columns=3)
    stroke = alt.Legend(title=None, orient="bottom", labelLimit=300, symbolType="stroke", symbolSize=600, columns=2)
    return (
        alt.Color("group:N", legend=legend, scale=alt.Scale(domain=groups, range=_cycled(COLOURS, len(groups)))),
        alt.Shape("group:N", legend=legend, scale=alt.Scale(domain=groups, range=_cycled(SHAPES, len(groups)))),
        alt.StrokeDash("words:N", legend=stroke, scale=alt.Scale(domain=words, range=dashes)),
    )


def _cycled(values: Sequence[str], count: int) -> list[str]:
    return [values[i % len(values)] for i in range(count)]


def _axis(values: pl.Series) -> tuple[float, float]:
    """From 0, or below where values are, to the largest."""
    known = [0.0, *values.fill_nan(None).drop_nulls()]
    return min(known), max(known) * 1.03 or 1.0


def matched(
    table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = (), reference: pl.DataFrame | None = None
) -> alt.LayerChart:
    """Match rate over layers with its Wilson interval, one line per group and control; of `actstore describe`."""
    several = table["control"].n_unique() > 1
    control = pl.col("control").replace_strict(OF_MATCHES)
    named = table.with_columns(group_name(table))
    series = pl.concat_str("group", control) if several else pl.col("group")
    text = pl.format(
        "{}, layer {}: {} of {} match, {} (95 % interval {} to {})",
        series, "layer", "matched", "n", *(decimals(pl.col(name)) for name in ("rate", "low", "high")),
    )  # fmt: skip
    drawn = named.select(series.alias("series"), "role", "layer", "low", "high", value="rate", text=text)
    behind = _behind(reference, table, metric="rate")
    ceiling = lines.top([*(value for one in (table, *tables) for value in one["high"]), *behind["value"]])
    chart = lines.over_layers(drawn, y_title="match rate", ceiling=ceiling, behind=behind)
    note = f"n = {counts(table)} samples; band: 95 % Wilson interval" + (
        "; controls: another sample's image, other vectors" if several else ""
    )
    titled: alt.LayerChart = chart.properties(title=heading(title, [note, *pale(reference)]))
    return titled
