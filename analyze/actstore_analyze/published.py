"""Curves and numbers that the papers published for large models, to be set beside one's own; never measured here."""

import json
from importlib.resources import files

import polars as pl

from actstore.errors import ActstoreError, nearest

__all__ = ["MODELS", "SOURCE", "gap", "homogeneity", "knockout", "overlap", "peaks"]

SOURCE = (
    "Serra, Ortu, Panizon et al., The Narrow Gate, figures 3 and 4 and its table of knockouts; "
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

# Model -> its name, its number of layers and its colour in figure 3.
FIGURE_3 = {
    "chameleon-7b": ("Chameleon-7B", 32, "#004488"),
    "chameleon-34b": ("Chameleon-34B", 48, "#BB5566"),
    "pixtral-12b": ("Pixtral-12B", 40, "#DDAA33"),
}

# ImageNet label overlap at the output: as the model is, [EOI] knocked out, image to text knocked out.
KNOCKOUT = (
    ("Chameleon-7B", 0.46, 0.01, 0.47),
    ("Chameleon-34B", 0.43, 0.00, 0.42),
    ("Emu3", 0.35, 0.24, 0.30),
    ("LLaVA-OneVision", 0.50, 0.45, 0.05),
    ("Pixtral", 0.63, 0.61, 0.06),
    ("Janus", 0.65, 0.65, 0.06),
)


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


def _of_figure_3(model: str, panel: int) -> pl.DataFrame | None:
    """A curve of figure 3, whose x is the index of a block's output over that of the last."""
    name, n_layers, colour = FIGURE_3.get(model.lower(), (None, 0, None))
    if name is None:
        return None
    text = files("actstore_analyze").joinpath("published_curves.json").read_text(encoding="utf-8")
    series = json.loads(text)["figures"]["figure3.svg"]["panels"][panel]["series"]
    (points,) = (points for marker, points in series.items() if marker.split()[0] == colour)
    layers = [round(x * (n_layers - 1)) + 1 for x, _ in points]
    rows = [(name, layer, layer / n_layers, y) for layer, (_, y) in zip(layers, points, strict=True)]
    return pl.DataFrame(rows, schema=["model", "layer", "depth", "value"], orient="row")


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


def knockout() -> pl.DataFrame:
    """The published label overlap at the output under knockouts: model, none, eoi, image_to_text."""
    return pl.DataFrame(KNOCKOUT, schema=["model", "none", "eoi", "image_to_text"], orient="row")


def _curves() -> pl.DataFrame:
    text = files("actstore_analyze").joinpath("published_curves.json").read_text(encoding="utf-8")
    panels = json.loads(text)["figures"]["f4_NO.svg"]["panels"]
    rows = [
        (model, *SERIES[marker.split()[0]], round(index) + 1, (round(index) + 1) / n_layers, value)
        for (model, n_layers), panel in zip(PANELS, panels, strict=True)
        for marker, points in panel["series"].items()
        for index, value in points
    ]
    return pl.DataFrame(rows, schema=["model", "series", "role", "layer", "depth", "overlap"], orient="row")
