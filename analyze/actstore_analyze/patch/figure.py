"""Figures of patches: what the model shares with the source, and whose word it prefers, over layers."""

from collections.abc import Sequence
from functools import partial
from textwrap import wrap

import altair as alt
import polars as pl

from actstore_analyze.charts import lines
from actstore_analyze.charts.charts import counts, decimals, heading, pale
from actstore_analyze.charts.together import Panel, Tables, curves, one_panel_each

__all__ = ["patched", "together"]

POINTS = {"residual": "residual", "attention-input": "attention input"}
WIDTH = 70  # characters of a line under the title
# Column, what it is, whether its band is its own standard deviation.
PANELS = (("similarity", "similarity to the source", True), ("accuracy", "prefers the source's word", False))
STYLE = {"residual": "eoi", "attention-input": "last-image"}  # the lines of lines.STYLES that stand for the points


def patched(
    table: pl.DataFrame,
    *,
    title: str,
    tables: Sequence[pl.DataFrame] = (),
    reference: pl.DataFrame | None = None,
    about: str | None = None,
) -> alt.VConcatChart:
    """Similarity with its band, and below it accuracy where the store tells, as The Narrow Gate's figure.

    tables: of the charts that stand beside it. reference: published curves (series, point, depth, value), drawn pale.
    about: what was put in, in words.
    """
    value = pl.col("similarity")
    text = pl.format(
        "{}, layer {}: similarity {} ± {} (sd), n = {}",
        _series(table), "layer", decimals(value), decimals(pl.col("similarity_sd")), "n",
    )  # fmt: skip
    text = pl.concat_str(text, _change(table, ""))
    spread = pl.col("similarity_sd")
    above = table.select(
        _series(table), _role(), "layer", value=value,
        low=(value - spread).clip(0, 1), high=(value + spread).clip(0, 1), text=text,
    )  # fmt: skip
    baselines = table["baseline"].drop_nulls().unique(maintain_order=True).to_list()
    charts = []
    if table["similarity"].count():
        charts.append(
            lines.over_layers(
                above, y_title="similarity to the source", ceiling=1,
                rules={f"unpatched {level:.3f}": level for level in baselines}, behind=_behind(table, reference),
            )
        )  # fmt: skip
    if table["accuracy"].count() or not charts or any(one["accuracy"].count() for one in tables):
        charts.append(_accuracy(table))
    what = "pairs" if table["similarity"].count() else "samples"
    note = f"n = {counts(table)} {what}, patched at {_roles(table)}"
    behind = pale(reference if table["similarity"].count() else None)
    charts[0] = charts[0].properties(title=heading(title, [note, *wrap(about or "", WIDTH), *_bands(table), *behind]))
    return alt.vconcat(*charts, spacing=20)


def together(tables: Tables, *, title: str, references: Sequence[pl.DataFrame] = ()) -> alt.VConcatChart:
    """Several stores over relative depth: a panel of similarity and one of accuracy for each point that is patched."""
    panels = []
    for point, name in POINTS.items():
        own = {store: rows for store, table in tables.items() if (rows := table.filter(point=point)).height}
        for column, y_title, spread in PANELS:
            if not any(rows[column].count() for rows in own.values()):
                continue
            drawn = curves(own, partial(_curve, column=column, spread=spread), "depth")
            behind = [kept for one in references if (kept := one.filter(point=point)).height]
            panels.append(Panel(drawn, f"{y_title}, {name}", (0, 1), behind if column == "similarity" else ()))
    note = "bands: similarity ± one standard deviation over samples; accuracy 95 % Wilson interval"
    return one_panel_each(panels, title, note, columns=len(PANELS))


def _curve(table: pl.DataFrame, *, column: str, spread: bool) -> pl.DataFrame:
    value, deviation = pl.col(column), pl.col("similarity_sd")
    low, high = ((value - deviation).clip(0, 1), (value + deviation).clip(0, 1)) if spread else ("low", "high")
    own = pl.col("patch") if table["patch"].n_unique() > 1 else pl.lit("")
    return table.select(own.alias("own"), "depth", value=value, low=low, high=high)


def _bands(table: pl.DataFrame) -> list[str]:
    """The line under the title that says what the bands are, as far as there are some."""
    said = {
        "similarity ± one standard deviation over samples": table["similarity_sd"].count(),
        "accuracy 95 % Wilson interval": table["low"].count(),
    }
    return ["band: " + "; ".join(text for text, n in said.items() if n)] if any(said.values()) else []


def _accuracy(table: pl.DataFrame) -> alt.LayerChart:
    text = pl.format(
        "{}, layer {}: accuracy {} ({} to {}), n = {}",
        _series(table), "layer", *(decimals(pl.col(name)) for name in ("accuracy", "low", "high")), "n",
    )  # fmt: skip
    text = pl.concat_str(text, _change(table, "accuracy_"))
    drawn = table.select(_series(table), _role(), "layer", value="accuracy", low="low", high="high", text=text)
    before = table["accuracy_before"].drop_nulls().unique(maintain_order=True).to_list()
    return lines.over_layers(
        drawn, y_title="prefers the source's word", ceiling=1, rules={f"unpatched {one:.3f}": one for one in before}
    )


def _change(table: pl.DataFrame, of: str) -> pl.Expr:
    """How far it is from what there is without the patch, in words; results of versions before do not say it."""
    names = [f"{of}difference{end}" for end in ("", "_low", "_high")]
    if names[0] not in table.columns:
        return pl.lit("")
    return pl.format("; {} from without the patch ({} to {})", *(decimals(pl.col(one)) for one in names)).fill_null("")


def _series(table: pl.DataFrame) -> pl.Expr:
    """The name of a line: the point, and the patch where several have the same."""
    point = pl.col("point").replace(POINTS)
    alike = table.select(pl.struct("patch").n_unique().over("point").max()).item() > 1
    return (pl.concat_str("patch", point, separator=", ") if alike else point).alias("series")


def _role() -> pl.Expr:
    return pl.col("point").replace(STYLE).alias("role")


def _roles(table: pl.DataFrame) -> str:
    return ", ".join(table["role"].unique(maintain_order=True))


def _behind(table: pl.DataFrame, reference: pl.DataFrame | None) -> pl.DataFrame | None:
    """The published curves of points that the table has, at the same relative depth."""
    if reference is None:
        return None
    per_depth = table.filter(pl.col("depth") > 0).select((pl.col("layer") / pl.col("depth")).max()).item() or 1.0
    said = "{}, layer {}: similarity {} (published, not measured here)"
    text = pl.format(said, "model", "layer", decimals(pl.col("value")))
    return reference.filter(pl.col("point").is_in(table["point"].to_list())).select(
        pl.format("published, {}", pl.col("point").replace(POINTS)).alias("series"), _role(),
        (pl.col("depth") * per_depth).alias("layer"), "value", text.alias("text"), "alone",
    )  # fmt: skip
