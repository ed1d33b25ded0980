"""What is known of some features: histogram, tokens that they make likelier, and where in pictures they are active."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.format.lens import Lens
from actstore.read.tokens import as_read
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.report.explore.pictures import Thumbnails, image_names, places_of, why_beside
from actstore_analyze.sae.formats import Sized
from actstore_analyze.sae.groups import groups_of, vectors
from actstore_analyze.sae.strongest import Strongest
from actstore_analyze.study import held

__all__ = ["Dashboard", "Histogram", "Top", "dashboards", "direct_logits", "told"]

BINS, TOKENS, AT_ONCE = 24, 10, 16
COMMON = 0.5  # share of samples beyond which a feature tells little
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Histogram:
    """Vectors by activation, of those on which a feature is active: counts (bins,) between edges (bins + 1,)."""

    counts: list[int]
    edges: list[float]


@dataclass(frozen=True)
class Top:
    """A sample in which a feature is strong: its picture, and the activation of each of its cells, row after row.

    beside: why the grid cannot be drawn on the picture; None where it can, or where no grid is known.
    """

    sample_id: str
    activation: float
    label: str | None
    prompt: str
    picture: str | None
    cells: list[list[float]] | None
    beside: str | None


@dataclass(frozen=True)
class Dashboard:
    """A row of the table of `actstore features`, and what a page shows beside it.

    likelier, less: tokens by what a unit of the feature adds to their logits directly; empty without a lens.
    """

    row: Mapping[str, Any]
    description: str | None
    histogram: Histogram
    likelier: list[tuple[str, float]]
    less: list[tuple[str, float]]
    top: list[Top]


def told(table: pl.DataFrame, most: int) -> pl.DataFrame:
    """The features that a page shows where none is named: those whose top samples have most in common, of equals the
    strongest; of those that have as many top samples as any, and are active in at most half of all samples.
    """
    common = pl.col("label_share").fill_null(0.0)
    tops = pl.col("top_samples").list.len()
    return (
        table.filter(tops == tops.max(), pl.col("in_samples") <= COMMON)
        .sort(common, "largest", descending=True, maintain_order=True)
        .head(most)
    )


def dashboards(
    store: Store, call: Strongest, rows: pl.DataFrame, sae: Sized, described: Mapping[int, str]
) -> list[Dashboard]:
    """Of rows of the table of `call`, all of one layer and group of rows."""
    features = rows["feature"].to_numpy()
    largest = rows["largest"].to_numpy()
    histograms = _histograms(store, call, rows.row(0, named=True), sae, features, largest)
    logits = _tokens(store, sae, features)
    names = list(dict.fromkeys(name for tops in rows["top_samples"] for name in tops))
    seen = _seen(store, rows.row(0, named=True), sae, features, names)
    labels = call.labels(store)
    return [
        Dashboard(
            row=row,
            description=described.get(row["feature"]),
            histogram=histograms[i],
            likelier=logits[i][0],
            less=logits[i][1],
            top=[
                Top(name, value, labels.get(name), *_of(seen[name], i))
                for name, value in zip(row["top_samples"], row["top_activations"], strict=True)
            ],
        )
        for i, row in enumerate(rows.iter_rows(named=True))
    ]


def _histograms(
    store: Store, call: Strongest, where: Mapping[str, Any], sae: Sized, features: NDArray[np.int64], largest: Any
) -> list[Histogram]:
    """Between 0 and the largest activation of each feature."""
    counts = np.zeros((len(features), BINS), np.int64)
    (group,) = (
        one for one in groups_of(store, call.sql, call.roles)
        if (one.role, one.prompt_order, one.condition) == (where["role"], where["prompt_order"], where["condition"])
    )  # fmt: skip
    for _, x in vectors(store, group.query, where["layer"], n_features=sae.n_features):
        active = np.asarray(sae.encode(x))[:, features]
        bins = np.minimum((active / largest * BINS).astype(np.int64), BINS - 1)
        for i in range(len(features)):
            counts[i] += np.bincount(bins[active[:, i] > 0, i], minlength=BINS)
    return [
        Histogram(own.tolist(), np.linspace(0, most, BINS + 1).round(5).tolist())
        for own, most in zip(counts, largest, strict=True)
    ]


def direct_logits(lens: Lens, directions: Floats) -> Floats:
    """Logits (n, tokens) that directions (n, d) of the stream add by themselves: through the weight of the final norm,
    not divided by the size of a stream that is not known, and the unembedding; -inf for tokens never said.
    """
    d = directions - directions.mean(axis=1, keepdims=True) if lens.optics.norm == "layernorm" else directions
    plain = Lens(
        type(lens.optics)(lens.optics.norm, lens.optics.eps, lens.optics.n_tokens, lens.optics.scale),
        *(lens.weight, lens.shift, np.where(lens.bias == -np.inf, lens.bias, 0).astype(np.float32), lens.unembedding),
    )
    normed = (d * lens.weight).astype(np.float32)
    return np.concatenate([plain.logits(normed, tokens) for tokens in plain.blocks()], axis=1)


def _tokens(
    store: Store, sae: Sized, features: NDArray[np.int64]
) -> list[tuple[list[tuple[str, float]], list[tuple[str, float]]]]:
    """Of each feature the tokens that it makes likelier, and those it makes less likely, by its decoder's direction."""
    if store.lens is None:
        return [([], []) for _ in features]
    units = np.zeros((len(features) + 1, sae.n_features), np.float32)
    units[np.arange(len(features)), features] = 1
    decoded = np.asarray(sae.decode(units), np.float32)
    logits = direct_logits(store.lens, decoded[:-1] - decoded[-1])
    names = dict(store.vocabulary.iter_rows())
    found = []
    for own in logits:
        said = np.flatnonzero(own > -np.inf)
        order = said[np.argsort(-own[said], kind="stable")]
        ends = [order[:TOKENS], order[::-1][:TOKENS]]
        found.append(tuple(_words(store, names, end, own) for end in ends))
    return found  # type: ignore[return-value]


def _words(store: Store, names: Mapping[int, str], tokens: Any, logits: Floats) -> list[tuple[str, float]]:
    words = pl.Series([names.get(int(one), f"<{one}>") for one in tokens], dtype=pl.String)
    return list(zip(as_read(words, store.vocabulary["token"]).to_list(), map(float, logits[tokens]), strict=True))


def _seen(
    store: Store, where: Mapping[str, Any], sae: Sized, features: NDArray[np.int64], names: Sequence[str]
) -> dict[str, tuple[str, str | None, Floats | None, str | None]]:
    """Of each sample its prompt, its picture, the features on the cells of the picture (features, rows, columns), and
    why that grid is not drawn on it."""
    kept = Thumbnails(store)
    condition = f"condition = {literal(where['condition'])}"
    found = {}
    for start in range(0, len(names), AT_ONCE):
        listed = ", ".join(map(literal, names[start : start + AT_ONCE]))
        own = store.sql(f"from samples where {condition} and sample_id in ({listed})")
        cells, active = (
            pl.DataFrame(schema={"sample_id": pl.String, "position": pl.Int32}),
            np.empty((0, len(features)), np.float32),
        )
        if "image" in store.roles and where["layer"] >= store.header.image_from:
            cells = store.sql(
                f"select row_id, sample_id, position from rows where role = 'image' and {condition} "
                f"and sample_id in ({listed}) order by sample_id, position"
            )
            if cells.height:
                active = np.asarray(sae.encode(held.residual(store, cells, where["layer"])), np.float32)[:, features]
        for row in own.iter_rows(named=True):
            at = (cells["sample_id"] == row["sample_id"]).to_numpy()
            found[row["sample_id"]] = _one(store, kept, row, cells.filter(at)["position"].to_list(), active[at])
    return found


def _one(
    store: Store, kept: Thumbnails, row: Mapping[str, Any], positions: Sequence[int], active: Floats
) -> tuple[str, str | None, Floats | None, str | None]:
    pictures = image_names(row.get("image"))
    webp = kept.webp(pictures)
    address = next((f"data:image/webp;base64,{b64encode(webp[one]).decode()}" for one in pictures if one in webp), None)
    places = places_of(row, positions) if positions else []
    place = places[0] if len(places) == 1 else None
    if place is None:
        return str(row.get("prompt") or ""), address, None, None
    size = kept.sizes.get(pictures[0]) if pictures else None
    beside = None if size is None else why_beside(size, place.grid, store.run)
    return str(row.get("prompt") or ""), address, active.T.reshape(-1, *place.grid), beside


def _of(
    seen: tuple[str, str | None, Floats | None, str | None], number: int
) -> tuple[str, str | None, list[list[float]] | None, str | None]:
    prompt, picture, cells, beside = seen
    own = None if cells is None else np.maximum(cells[number], 0).round(5).tolist()
    return prompt, picture, own, beside
