"""Curves and numbers that the papers published for large models, to be set beside one's own; never measured here."""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import polars as pl

from actstore_analyze.published import stated
from actstore_analyze.published.models import MODELS, key

__all__ = [
    "SOURCE",
    "attention",
    "gap",
    "homogeneity",
    "knockouts",
    "other_chance",
    "overlap",
    "patching",
    "peaks",
    "windows",
]

SOURCE = (
    "Serra, Ortu, Panizon et al., The Narrow Gate, its figures and its table of knockouts; curves read off the figures "
    "of the authors' page (github.com/RitAreaSciencePark/Narrow-gate, branch gh-pages), to about 0.003"
)
SAID = "read off its authors' page, to about 0.003"
PRINTED = "its table, both ends alone, to 0.005"
K, CLASSES, IMAGES = 30, 100, 100  # of the published label overlap: 100 ImageNet classes of 100 images each
CHANCE = (IMAGES - 1) / (CLASSES * IMAGES - 1)  # of it: what random neighbours give

PANELS = ("chameleon-7b", "pixtral-12b")  # of figure 4; colour of a curve -> the paper's word, the role here
SERIES = {
    "#548B54": ("[EOI]", "eoi"),
    "#006BA4": ("internal image", "image"),
    "#CD6889": ("last image", "last-image"),
    "#EE7600": ("32nd token", "at-32"),
    "#645394": ("1025th token", "at-1025"),
    "#EEB422": ("[EOL]", "eol"),
}

# Word of the attention figure -> the name here.
SHARES = {
    "Internal image": "internal image",
    "32nd token": "at-32",
    "1025th token": "at-1025",
    "[EOL]": "eol",
    "Last image": "last-image",
    "[EOI]": "eoi",
}

# The page's files are of the paper's first version, whose figures 3, 7 and 8 are figures 2, SM3 and 5 of the latest.
COLOURS = {"chameleon-7b": "#004488", "chameleon-34b": "#BB5566", "pixtral-12b": "#DDAA33"}
WINDOWS = {"#548B54": "eoi-knockout", "#AA3377": "image-knockout"}  # the panels are in the order of COLOURS
POINTS = ("residual", "attention-input")  # the panels of figure 8


def overlap(model: str) -> pl.DataFrame | None:
    """The published label overlap of a model: model, series (the paper's word), role, layer, depth, value, said.

    The authors index the outputs of the blocks from 0, so that index i is layer i + 1 here. Of models without a curve
    what the text says. None where we have neither.

    >>> overlap("chameleon-7b").filter(role="eoi")["value"].max()
    0.4752
    """
    found = _curves().filter(pl.col("model") == MODELS[key(model)].name)
    return found if found.height else stated.bound(model)


def other_chance(own: float | None) -> tuple[dict[str, float], list[str]]:
    """The chance level of the published label overlaps by its name, and a line that says what the difference means;
    nothing of either where one's own is the same, or is not known.

    >>> other_chance(0.1)
    ({'published chance 0.010': 0.0099...}, ['its chance is 0.010, here 0.100: compare shapes over depth, not heights'])
    >>> other_chance(0.0101)
    ({}, [])
    """
    if own is None or abs(own - CHANCE) < 0.001:
        return {}, []
    note = f"its chance is {CHANCE:.3f}, here {own:.3f}: compare shapes over depth, not heights"
    return {f"published chance {CHANCE:.3f}": CHANCE}, [note]


def gap(model: str) -> pl.DataFrame | None:
    """The published median cosine of text and image vectors: model, layer, depth, value, said (how exactly).

    Of models without a curve what the text says; None where we have neither.

    >>> gap("chameleon-7b")["value"].max()
    0.0757
    """
    found = _of_figure_3(model, panel=0)
    return stated.curve("gap", model) if found is None else found


def homogeneity(model: str) -> pl.DataFrame | None:
    """The published homogeneity of clusters of text and image vectors, as `gap`.

    >>> homogeneity("pixtral-12b")["layer"].to_list()[::39]
    [1, 40]
    """
    found = _of_figure_3(model, panel=1)
    return stated.curve("homogeneity", model) if found is None else found


def attention(model: str) -> pl.DataFrame | None:
    """The published shares of the text's attention to the image: model, name, layer (the block), depth, share.

    name: "internal image", or a role. None where we have none.

    >>> attention("chameleon-7b").filter(name="eoi", layer=0)["share"].item()
    0.2191
    """
    if key(model) not in PANELS:
        return None
    name, n_layers = MODELS[key(model)][:2]
    per_layer = _read("curves.json")["figures"]["f6_attention_v3.svg"]["per_layer"][name]
    rows = [
        (name, SHARES[word], layer, layer / n_layers, share)
        for layer, shares in enumerate(per_layer)
        for word, share in shares.items()
    ]
    return pl.DataFrame(rows, schema=["model", "name", "layer", "depth", "share"], orient="row")


def windows(model: str) -> pl.DataFrame | None:
    """The published label overlap at the output while the last `window` blocks are knocked out; None without any.

    model, knockout, window, depth (window / blocks), value, said. Of models without a curve the ends, from the table.

    >>> windows("chameleon-7b").filter(knockout="eoi-knockout").select("window", "value").row(-1)
    (32, 0.0192)
    >>> windows("emu3").filter(knockout="eoi-knockout").select("window", "value").rows()
    [(0, 0.35), (32, 0.24)]
    """
    if key(model) not in COLOURS:
        return _ends(key(model))
    name, n_layers = MODELS[key(model)][:2]
    panel = _panels("figure7_v2.svg")[list(COLOURS).index(key(model))]
    rows = [
        (name, WINDOWS[marker.split()[0]], round(window), round(window) / n_layers, value, SAID, False)
        for marker, points in panel["series"].items()
        for window, value in points
    ]
    return pl.DataFrame(rows, schema=OF_WINDOWS, orient="row")


OF_WINDOWS = ["model", "knockout", "window", "depth", "value", "said", "alone"]


def _ends(model: str) -> pl.DataFrame | None:
    """No block and all of them, as the table of knockouts has them."""
    name, n_layers = MODELS[model][:2]
    printed = knockouts().filter(model=model, metric="overlap")
    rows = [
        (name, knockout, window, float(window > 0), printed.filter(knockout=at)["value"].item(), PRINTED, True)
        for knockout in WINDOWS.values()
        if knockout in set(printed["knockout"])
        for window, at in ((0, "none"), (n_layers, knockout))
    ]
    return pl.DataFrame(rows, schema=OF_WINDOWS, orient="row") if rows else None


def patching(model: str) -> pl.DataFrame | None:
    """The published similarity when [EOI] is patched at a layer: as `gap`, and point; None where we have none.

    Its x is the index of the block that reads the patch over that of the last, so that index i is layer i here.

    >>> patching("chameleon-7b").group_by("point", maintain_order=True).agg(pl.col("value").max())["value"].to_list()
    [0.875, 0.9531]
    """
    colour = COLOURS.get(key(model))
    found = [
        _by_depth(key(model), points, first=0).with_columns(point=pl.lit(point))
        for point, panel in zip(POINTS, _panels("figure8.svg"), strict=True)
        for marker, points in panel["series"].items()
        if marker.split()[0] == colour
    ]
    said = stated.curve("patching", model)
    return pl.concat(found) if found else None if said is None else said.with_columns(point=pl.lit(POINTS[0]))


def peaks() -> pl.DataFrame:
    """The largest published overlap of each curve and where: model, series, overlap, layer, n_layers."""
    largest = pl.col("value") == pl.col("value").max().over("model", "series")
    deep = {known.name: known.layers for known in MODELS.values()}
    return (
        _curves()
        .filter(largest)
        .unique(["model", "series"], keep="first", maintain_order=True)
        .select("model", "series", overlap="value", layer="layer", n_layers=pl.col("model").replace_strict(deep))
    )


def knockouts() -> pl.DataFrame:
    """The published table of knockouts in all blocks: model (its key), name, knockout, source, metric, value.

    >>> knockouts().filter(model="emu3", knockout="eoi-knockout")["value"].to_list()
    [0.48, 0.33, 0.13, 0.24]
    """
    data = _read("knockouts.json")
    rows = [
        (model, one["name"], knockout, *column, value)
        for model, one in data["models"].items()
        for knockout, values in one["conditions"].items()
        for column, value in zip(data["columns"], values, strict=True)
    ]
    return pl.DataFrame(rows, schema=["model", "name", "knockout", "source", "metric", "value"], orient="row")


def _of_figure_3(model: str, panel: int) -> pl.DataFrame | None:
    """A curve of the page's figure 3, whose x is the index of a block's output over that of the last."""
    colour = COLOURS.get(key(model))
    if colour is None:
        return None
    series = _panels("figure3.svg")[panel]["series"]
    (points,) = (points for marker, points in series.items() if marker.split()[0] == colour)
    return _by_depth(key(model), points, first=1)


def _by_depth(model: str, points: Sequence[tuple[float, float]], first: int) -> pl.DataFrame:
    """CURVE of points whose x goes from 0 to 1 over the blocks, the first at layer `first`."""
    name, n_layers = MODELS[model][:2]
    layers = [round(x * (n_layers - 1)) + first for x, _ in points]
    rows = [(name, layer, layer / n_layers, y, SAID, False) for layer, (_, y) in zip(layers, points, strict=True)]
    return pl.DataFrame(rows, schema=stated.CURVE, orient="row")


def _curves() -> pl.DataFrame:
    rows = [
        (
            known.name,
            *SERIES[marker.split()[0]],
            round(index) + 1,
            (round(index) + 1) / known.layers,
            value,
            SAID,
            False,
        )
        for known, panel in zip(map(MODELS.__getitem__, PANELS), _panels("f4_NO.svg"), strict=True)
        for marker, points in panel["series"].items()
        for index, value in points
    ]
    return pl.DataFrame(
        rows, schema=["model", "series", "role", "layer", "depth", "value", "said", "alone"], orient="row"
    )


def _panels(figure: str) -> list[dict[str, Any]]:
    return list(_read("curves.json")["figures"][figure]["panels"])


@cache
def _read(name: str) -> dict[str, Any]:
    return dict(json.loads(files("actstore_analyze.published").joinpath(name).read_text(encoding="utf-8")))
