"""Figures of the measures, one function for the table of each."""

from collections.abc import Callable, Sequence
from functools import partial

import altair as alt
import polars as pl

from actstore_analyze.attention.study import INTERNAL
from actstore_analyze.charts import charts, lines, stacks
from actstore_analyze.charts.charts import counts, decimals, error_band, heading, pale

__all__ = ["Draw", "attention", "cluster", "data_overlap", "dimension", "gap", "outliers", "probe"]

Draw = Callable[..., charts.Figure]

Axis = tuple[float, float]


def gap(
    table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = (), reference: pl.DataFrame | None = None
) -> alt.LayerChart:
    """Median cosine of text and image vectors over layers, with its interquartile band, as The Narrow Gate's figure.

    tables: of the charts that stand beside it, so that all have one y axis. reference: a published curve, drawn pale.
    """
    text = pl.format(
        "layer {}: median cosine {}, quartiles {} to {}", "layer", *(decimals(pl.col(c)) for c in QUARTILES)
    )
    drawn = table.select(
        _condition("text · image").alias("series"), role=pl.lit("image"), layer="layer",
        value="median", low="q25", high="q75", text=text,
    )  # fmt: skip
    published = [] if reference is None else reference["value"].to_list()
    what = "|cosine|" if table["absolute"][0] else "cosine"
    note = [
        f"n = {counts(table, 'n_text')} texts, {counts(table, 'n_image')} images; band: q25 to q75",
        *pale(reference),
    ]
    axis = lines.halves([value for one in (table, *tables) for c in QUARTILES for value in one[c]] + published)
    return _titled(drawn, title, note, f"{what} of text and image vectors", axis, _behind(reference, table, "eoi"))


def dimension(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.LayerChart:
    """Intrinsic dimension over layers, one line per role."""
    value, error = pl.col("id").fill_nan(None), pl.col("error").fill_nan(None)
    text = pl.format("{}, layer {}: dimension {} ± {}, n = {}", charts.series(), "layer", *_short(value, error), "n")
    drawn = table.select(
        charts.series(), "role", "layer",
        value=value, low=value - error, high=value + error, text=text,
    )  # fmt: skip
    note = f"n = {counts(table)} samples, {table['metric'][0]} distance; band: one standard error"
    axis = lines.halves(
        [value for one in (table, *tables) for value in (one["id"] + one["error"].fill_nan(0)).to_list()]
    )
    return _titled(drawn, title, note, f"intrinsic dimension (Gride, rank {table['rank'][0]})", axis)


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
    return _titled(drawn, title, note, "homogeneity", (0, 1.05), _behind(reference, table, "eoi"))


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
        "layer {}, {}: share {} ({} positions)", "layer", "name", decimals(pl.col("share")), "positions"
    ).str.replace("(1 positions)", "(1 position)", literal=True)
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
    what = "layer {}, {}: share {} (published, not measured here)"
    text = pl.format(what, "layer", "name", decimals(pl.col("share")))
    shares = reference.filter(pl.col("share").max().over("name") > 0).with_columns(text=text)
    chart = stacks.stacked(shares, y_title="share, published", background=INTERNAL, opacity=PALE)
    titled: alt.LayerChart = chart.properties(title=heading(reference["model"][0], "published, not measured here"))
    return titled


def data_overlap(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.LayerChart:
    """Data overlap over layers, one line per role, chance as a rule."""
    value, error = pl.col("overlap").fill_nan(None), pl.col("se")
    other = pl.format("{} at layer {}", "with_role", "with_layer")
    text = pl.format("{}, layer {}: overlap {} with {}", charts.series(), "layer", decimals(value), other)
    drawn = table.select(
        charts.series(), "role", "layer", value=value, low=value - error, high=value + error, text=text
    )  # fmt: skip
    chart = lines.over_layers(
        drawn,
        y_title=f"data overlap (k = {table['k'][0]})",
        ceiling=charts.ceiling([table, *tables]),
        rules=charts.chance(table),
    )
    note = f"n = {counts(table)} samples, {table['metric'][0]} distance; with {_partner(table)}{error_band(table)}"
    titled: alt.LayerChart = chart.properties(title=heading(title, note))
    return titled


def outliers(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.VConcatChart:
    """Norms over layers, and below them the share of the largest dimension."""
    said = pl.format("{}, layer {}", charts.series(), "layer")
    norms = pl.format("{}: median norm {}, quartiles {} to {}", said, *_short(*map(pl.col, NORMS)))
    share = pl.format("{}: dimension {} makes {}", said, "top_dim", decimals(pl.col("top_share")))
    place = (charts.series(), "role", "layer")
    above = table.select(*place, value="norm_median", low="norm_q25", high="norm_q75", text=norms)
    below = table.select(
        *place, value="top_share", low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64), text=share
    )  # fmt: skip
    floor, ceiling = lines.halves([value for one in (table, *tables) for value in one["norm_q75"]])
    highest = lines.top([value for one in (table, *tables) for value in one["top_share"]])
    worst = max(table["massive"].to_list())
    note = f"n = {counts(table)} vectors of a role; massive dimensions: at most {worst}; band: q25 to q75"
    return alt.vconcat(
        lines.over_layers(above, y_title="norm", floor=floor, ceiling=ceiling).properties(title=heading(title, note)),
        lines.over_layers(below, y_title="share of the largest dimension", ceiling=highest),
        spacing=20,
    )


def probe(table: pl.DataFrame, *, title: str, tables: Sequence[pl.DataFrame] = ()) -> alt.LayerChart:  # noqa: ARG001
    """Held-out accuracy over layers, one line per role, the commonest label as a rule."""
    text = pl.format(
        "{}, layer {}: accuracy {} ({} to {}), n = {}",
        charts.series(), "layer", *(decimals(pl.col(name)) for name in ("accuracy", "low", "high")), "held_out",
    )  # fmt: skip
    drawn = table.select(charts.series(), "role", "layer", value="accuracy", low="low", high="high", text=text)
    chart = lines.over_layers(
        drawn, y_title="held-out accuracy", ceiling=1,
        rules={f"commonest {level:.3f}": level for level in [table.select(pl.col("chance").mean()).item()]},
    )  # fmt: skip
    note = f"n = {counts(table, 'held_out')} samples held out; band: 95 % Wilson interval"
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


NORMS = ("norm_median", "norm_q25", "norm_q75")
QUARTILES = ("median", "q25", "q75")
PALE = 0.7  # fainter, and shares do not part in grey
METHODS = {"adp": "density peaks", "hdbscan": "HDBSCAN"}


def _titled(
    drawn: pl.DataFrame, title: str, note: str | list[str], y_title: str, axis: Axis, behind: pl.DataFrame | None = None
) -> alt.LayerChart:
    floor, ceiling = axis
    chart = lines.over_layers(drawn, y_title=y_title, floor=floor, ceiling=max(ceiling, floor + 0.1), behind=behind)
    titled: alt.LayerChart = chart.properties(title=heading(title, note))
    return titled


def _behind(reference: pl.DataFrame | None, table: pl.DataFrame, role: str) -> pl.DataFrame | None:
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
    )


def _condition(plain: str) -> pl.Expr:
    return pl.when(pl.col("condition") == "none").then(pl.lit(plain)).otherwise("condition")


def _short(*values: pl.Expr) -> list[pl.Expr]:
    return list(map(partial(decimals, count=2), values))
