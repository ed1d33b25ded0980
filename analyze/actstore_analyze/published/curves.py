"""Curves and numbers that the papers published for large models, to be set beside one's own; never measured here."""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import polars as pl

from actstore.errors import ActstoreError, nearest

__all__ = [
    "MODELS",
    "SOURCE",
    "attention",
    "check",
    "gap",
    "homogeneity",
    "knockouts",
    "name_of",
    "overlap",
    "patching",
    "peaks",
    "windows",
]

SOURCE = (
    "Serra, Ortu, Panizon et al., The Narrow Gate, figures 2 to 5 and SM3, and its table of knockouts; "
    "curves read off the figures of the authors' page (github.com/RitAreaSciencePark/Narrow-gate, branch gh-pages), "
    "to about 0.003"
)
K, CLASSES = 30, 100  # of the published label overlap: 100 ImageNet classes of 100 images

# Panel of figure 4 -> the model, its number of layers; colour of a curve -> the paper's word, the role here.
MODELS = {"chameleon-7b": "Chameleon-7B", "pixtral-12b": "Pixtral-12B"}
PANELS = (("Chameleon-7B", 32), ("Pixtral-12B", 40))
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

# Model -> its name, its number of layers and its colour in figures 3 and 5.
FIGURE_3 = {
    "chameleon-7b": ("Chameleon-7B", 32, "#004488"),
    "chameleon-34b": ("Chameleon-34B", 48, "#BB5566"),
    "pixtral-12b": ("Pixtral-12B", 40, "#DDAA33"),
}
WINDOWS = {"#548B54": "eoi-knockout", "#AA3377": "image-knockout"}  # figure SM3, whose panels are in FIGURE_3's order
POINTS = ("residual", "attention-input")  # the panels of figure 5


def check(model: str) -> None:
    """Raise ActstoreError for a model of which nothing is published here.

    >>> check("emu3")
    """
    known = list(_knockouts()["models"])
    if model.lower() not in known:
        raise ActstoreError(
            f"nothing published of '{model}', only of {', '.join(known)}{nearest(model.lower(), known)}"
        )


def name_of(model: str) -> str:
    """A model as the paper writes it; raises ActstoreError as `check`."""
    check(model)
    return str(_knockouts()["models"][model.lower()]["name"])


def overlap(model: str) -> pl.DataFrame:
    """The published label overlap of a model: model, series (the paper's word), role, layer, depth, overlap.

    The authors index the outputs of the blocks from 0, so that index i is layer i + 1 here.

    >>> overlap("chameleon-7b").filter(role="eoi")["overlap"].max()
    0.4752
    """
    name = MODELS.get(model.lower())
    if name is None:
        raise ActstoreError(
            f"no published overlap of '{model}', only of {', '.join(MODELS)}{nearest(model.lower(), list(MODELS))}"
        )
    return _curves().filter(pl.col("model") == name)


def gap(model: str) -> pl.DataFrame | None:
    """The published median cosine of text and image vectors: model, layer, depth, value; None where there is none.

    >>> gap("chameleon-7b")["value"].max()
    0.0757
    """
    return _of_figure_3(model, panel=0)


def homogeneity(model: str) -> pl.DataFrame | None:
    """The published homogeneity of clusters of text and image vectors, as `gap`.

    >>> homogeneity("pixtral-12b")["layer"].to_list()[::39]
    [1, 40]
    """
    return _of_figure_3(model, panel=1)


def attention(model: str) -> pl.DataFrame | None:
    """The published shares of the text's attention to the image: model, name, layer (the block), depth, share.

    name: "internal image", or a role. None where there is none.

    >>> attention("chameleon-7b").filter(name="eoi", layer=0)["share"].item()
    0.2191
    """
    name = MODELS.get(model.lower())
    if name is None:
        return None
    per_layer = _read("curves.json")["figures"]["f6_attention_v3.svg"]["per_layer"][name]
    n_layers = dict(PANELS)[name]
    rows = [
        (name, SHARES[word], layer, layer / n_layers, share)
        for layer, shares in enumerate(per_layer)
        for word, share in shares.items()
    ]
    return pl.DataFrame(rows, schema=["model", "name", "layer", "depth", "share"], orient="row")


def windows(model: str) -> pl.DataFrame | None:
    """The published label overlap at the output while the last `window` blocks are knocked out; None without any.

    model, knockout, window, depth (window / blocks), value.

    >>> windows("chameleon-7b").filter(knockout="eoi-knockout").select("window", "value").row(-1)
    (32, 0.0192)
    """
    name, n_layers, _ = FIGURE_3.get(model.lower(), (None, 0, None))
    if name is None:
        return None
    panel = _panels("figure7_v2.svg")[list(FIGURE_3).index(model.lower())]
    rows = [
        (name, WINDOWS[marker.split()[0]], round(window), round(window) / n_layers, value)
        for marker, points in panel["series"].items()
        for window, value in points
    ]
    return pl.DataFrame(rows, schema=["model", "knockout", "window", "depth", "value"], orient="row")


def patching(model: str) -> pl.DataFrame | None:
    """The published similarity when [EOI] is patched at a layer: model, layer, depth, value, point; None without any.

    Its x is the index of the block that reads the patch over that of the last, so that index i is layer i here.

    >>> patching("chameleon-7b").group_by("point", maintain_order=True).agg(pl.col("value").max())["value"].to_list()
    [0.875, 0.9531]
    """
    name, n_layers, colour = FIGURE_3.get(model.lower(), ("", 0, ""))
    found = [
        _by_depth(name, n_layers, points, first=0).with_columns(point=pl.lit(point))
        for point, panel in zip(POINTS, _panels("figure8.svg"), strict=True)
        for marker, points in panel["series"].items()
        if marker.split()[0] == colour
    ]
    return pl.concat(found) if found else None


def peaks() -> pl.DataFrame:
    """The largest published overlap of each curve and where: model, series, overlap, layer, n_layers."""
    largest = pl.col("overlap") == pl.col("overlap").max().over("model", "series")
    deep = dict(PANELS)
    return (
        _curves()
        .filter(largest)
        .unique(["model", "series"], keep="first", maintain_order=True)
        .select("model", "series", "overlap", "layer", pl.col("model").replace_strict(deep).alias("n_layers"))
    )


def knockouts() -> pl.DataFrame:
    """The published table of knockouts in all blocks: model (for `check`), name, knockout, source, metric, value.

    >>> knockouts().filter(model="emu3", knockout="eoi-knockout")["value"].to_list()
    [0.48, 0.33, 0.13, 0.24]
    """
    data = _knockouts()
    rows = [
        (model, one["name"], knockout, *column, value)
        for model, one in data["models"].items()
        for knockout, values in one["conditions"].items()
        for column, value in zip(data["columns"], values, strict=True)
    ]
    return pl.DataFrame(rows, schema=["model", "name", "knockout", "source", "metric", "value"], orient="row")


def _of_figure_3(model: str, panel: int) -> pl.DataFrame | None:
    """A curve of figure 3, whose x is the index of a block's output over that of the last."""
    name, n_layers, colour = FIGURE_3.get(model.lower(), (None, 0, None))
    if name is None:
        return None
    series = _panels("figure3.svg")[panel]["series"]
    (points,) = (points for marker, points in series.items() if marker.split()[0] == colour)
    return _by_depth(name, n_layers, points, first=1)


def _by_depth(name: str, n_layers: int, points: Sequence[tuple[float, float]], first: int) -> pl.DataFrame:
    """model, layer, depth, value of points whose x goes from 0 to 1 over the blocks, the first at layer `first`."""
    layers = [round(x * (n_layers - 1)) + first for x, _ in points]
    rows = [(name, layer, layer / n_layers, y) for layer, (_, y) in zip(layers, points, strict=True)]
    return pl.DataFrame(rows, schema=["model", "layer", "depth", "value"], orient="row")


def _curves() -> pl.DataFrame:
    rows = [
        (model, *SERIES[marker.split()[0]], round(index) + 1, (round(index) + 1) / n_layers, value)
        for (model, n_layers), panel in zip(PANELS, _panels("f4_NO.svg"), strict=True)
        for marker, points in panel["series"].items()
        for index, value in points
    ]
    return pl.DataFrame(rows, schema=["model", "series", "role", "layer", "depth", "overlap"], orient="row")


def _panels(figure: str) -> list[dict[str, Any]]:
    return list(_read("curves.json")["figures"][figure]["panels"])


def _knockouts() -> dict[str, Any]:
    return _read("knockouts.json")


@cache
def _read(name: str) -> dict[str, Any]:
    return dict(json.loads(files("actstore_analyze.published").joinpath(name).read_text(encoding="utf-8")))
