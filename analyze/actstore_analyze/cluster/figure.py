"""Figure of clusters: how pure they are."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from actstore_analyze.charts import charts
from actstore_analyze.charts.charts import behind, counts, decimals, pale, titled
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
    per_layer = table.group_by("role", "condition", "layer", maintain_order=True).agg(
        pl.col("homogeneity", "homogeneity_all").fill_nan(None).mean(), pl.col("clusters", "large", "n").max()
    )
    ways = {"homogeneity": f"clusters ≥ {size}", "homogeneity_all": "all clusters"}
    long = per_layer.unpivot(
        list(ways), index=["role", "condition", "layer", "clusters", "large", "n"], variable_name="way"
    ).with_columns(pl.col("way").replace_strict(ways))
    several = len(set(table["role"])) > 1 or len(set(table["condition"])) > 1
    name = pl.concat_str(charts.series(), "way", separator=", ") if several else pl.col("way")
    text = pl.format(
        "{}, layer {}: homogeneity {}, {} clusters, {} of them large, n = {}",
        name, "layer", decimals(value), "clusters", "large", "n",
    )  # fmt: skip
    drawn = long.select(
        name.alias("series"), "role", "layer", value=value, low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64),
        text=text,
    )  # fmt: skip
    note = [
        f"n = {counts(table)} vectors, {METHODS[table['method'][0]]}, label: {table['label'][0]}",
        *pale(reference),
    ]
    return titled(drawn, title, note, "homogeneity", (0, 1.05), behind(reference, table, "eoi"))


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
