"""Figure of clusters: how pure they are."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts
from actstore_analyze.charts.charts import behind, counts, decimals, has_interval, pale, queried, titled
from actstore_analyze.charts.together import Panel, Tables, curves, one_panel_each

__all__ = ["cluster", "together"]

METHODS = {"adp": "density peaks", "hdbscan": "HDBSCAN"}


def cluster(
    table: pl.DataFrame,
    *,
    title: str,
    tables: Sequence[pl.DataFrame] = (),  # noqa: ARG001
    reference: pl.DataFrame | None = None,
) -> alt.LayerChart:
    """Homogeneity of the clusters over layers, with and without the small ones, as The Narrow Gate's figure."""
    size = table["min_size"][0]
    value = pl.col("value").fill_nan(None)
    ways = {f"clusters ≥ {size}": "", "all clusters": "_all"}
    where = ["role", "condition", "layer"]
    long = pl.concat(
        table.group_by(*where, maintain_order=True).agg(
            pl.col("clusters", "large", "n").max(), way=pl.lit(way),
            value=pl.col(f"homogeneity{of}").fill_nan(None).mean(),
            **{end: _end(table, end + of).mean() for end in ("low", "high")},
        )
        for way, of in ways.items()
    )  # fmt: skip
    several = len(set(table["role"])) > 1 or len(set(table["condition"])) > 1
    name = pl.concat_str(charts.series(), "way", separator=", ") if several else pl.col("way")
    text = pl.format(
        "{}, layer {}: homogeneity {}, {} clusters, {} of them large, n = {}",
        name, "layer", decimals(value), "clusters", "large", "n",
    )  # fmt: skip
    drawn = long.select(name.alias("series"), "role", "layer", value=value, low="low", high="high", text=text)
    note = [
        f"n = {counts(table)} vectors{queried(table)}, {METHODS[table['method'][0]]}, label: {table['label'][0]}"
        + ("; band: 95 % interval" if has_interval(table) else ""),
        *pale(reference),
    ]
    return titled(drawn, title, note, "homogeneity", (0, 1.05), behind(reference, table, "eoi"))


def _end(table: pl.DataFrame, name: str) -> pl.Expr:
    """An end of the interval; results of versions before have none."""
    return pl.col(name) if name in table.columns else pl.lit(None, pl.Float64)


def together(tables: Tables, *, title: str, references: Sequence[pl.DataFrame] = ()) -> alt.VConcatChart:
    """The homogeneity of several stores in one panel over relative depth, without small clusters."""
    size = next(iter(tables.values()))["min_size"][0]
    own = curves(tables, _curve, "depth")
    return one_panel_each([Panel(own, "homogeneity", (0, 1.05), references)], title, f"clusters ≥ {size}")


def _curve(table: pl.DataFrame) -> pl.DataFrame:
    """The mean of places at a layer, as the figure of one store draws it."""
    per_layer = table.group_by("role", "condition", "depth", maintain_order=True).agg(
        value=pl.col("homogeneity").fill_nan(None).mean()
    )
    several = per_layer.select(pl.struct("role", "condition").n_unique()).item() > 1
    none = pl.lit(None, pl.Float64)
    own = charts.series() if several else pl.lit("")
    return per_layer.select(own.alias("own"), "depth", "value", low=none, high=none)
