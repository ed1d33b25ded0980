"""Figure of cross-modal attention."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.attention.study import INTERNAL
from actstore_analyze.charts import stacks
from actstore_analyze.charts.charts import counts, decimals, has_interval, heading

__all__ = ["attention"]

PALE = 0.7  # fainter, and shares do not part in grey


def attention(
    table: pl.DataFrame,
    *,
    title: str,
    tables: Sequence[pl.DataFrame] = (),  # noqa: ARG001
    reference: pl.DataFrame | None = None,
) -> alt.LayerChart | alt.VConcatChart:
    """Shares of the text's attention to the image, stacked over layers, as The Narrow Gate's figure.

    Of several conditions the first alone: their tables say the others. reference: published shares, pale, below.
    """
    condition = table["condition"][0]
    own = table.filter(pl.col("condition") == condition)
    text = pl.format(
        "block {}, {}: share {} ({} positions)", "layer", "name", decimals(pl.col("share")), "positions"
    ).str.replace("(1 positions)", "(1 position)", literal=True)
    if has_interval(own):
        ends = pl.format(", 95 % interval {} to {}", decimals(pl.col("low")), decimals(pl.col("high")))
        text = pl.concat_str(text, ends.fill_null(""))
    chart = stacks.stacked(own.with_columns(text=text), y_title="share of the text's attention", background=INTERNAL)
    note = f"n = {counts(own)} samples" + ("" if condition == "none" else f", condition {condition}")
    titled: alt.LayerChart = chart.properties(title=heading(title, note))
    if reference is None:
        return titled
    both = alt.vconcat(titled, _published_shares(reference), spacing=20)
    parted: alt.VConcatChart = both.resolve_scale(color="independent")
    return parted


def _published_shares(reference: pl.DataFrame) -> alt.LayerChart:
    """The stack of a model that was published."""
    what = "block {}, {}: share {} (published, not measured here)"
    text = pl.format(what, "layer", "name", decimals(pl.col("share")))
    shares = reference.filter(pl.col("share").max().over("name") > 0).with_columns(text=text)
    chart = stacks.stacked(shares, y_title="share, published", background=INTERNAL, opacity=PALE)
    titled: alt.LayerChart = chart.properties(title=heading(reference["model"][0], "published, not measured here"))
    return titled
