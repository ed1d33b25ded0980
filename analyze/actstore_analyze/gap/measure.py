"""Modality gap: the cosines between text and image vectors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError, UndefinedError
from actstore_analyze.neighbors import parse

__all__ = ["Quartiles", "cosine_counts", "cosine_gap", "quartiles"]

Counts = NDArray[np.int64]

_BINS = 1 << 21  # of [-1, 1]: half a bin is 5e-7, what float32 resolves in a cosine
_BLOCK_BYTES = 1 << 25
_PAIRS = ("all", "unmatched", "lower", "matched")


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The quartiles of a distribution."""

    q25: float
    median: float
    q75: float


def cosine_gap(
    text: NDArray[np.number], image: NDArray[np.number], *, pairs: str = "all", absolute: bool = False
) -> Quartiles:
    """Quartiles of the cosine between text vectors (n, d) and image vectors (m, d), to 1e-6.

    pairs: `all`; of n texts with n images also `unmatched` (i != j), `lower` (i > j, as in the authors' code)
    and `matched` (i = j). absolute: of |cos| instead. Interpolated between order statistics, as numpy.
    The Narrow Gate (Serra et al.), median cosine and interquartile band per layer.
    Counted block by block: memory grows with n + m, never with n m.
    Raises ActstoreError for vectors of unequal length, NaN or infinity, zero vectors, and no pairs.

    >>> text, image = np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([[2.0, 0.0], [0.0, 1.0]])
    >>> found = cosine_gap(text, image)  # cosines 1, 0, 0.6, 0.8
    >>> round(found.q25, 4), round(found.median, 4), round(found.q75, 4)
    (0.45, 0.7, 0.85)
    """
    if pairs != "all" and len(text) > len(image):
        raise ActstoreError(f"{len(text)} texts but {len(image)} images; only pairs='all' takes unequal numbers")
    return quartiles(cosine_counts(text, image, pairs=pairs, absolute=absolute))


def cosine_counts(
    text: NDArray[np.number],
    image: NDArray[np.number],
    *,
    pairs: str = "all",
    absolute: bool = False,
    start: int = 0,
    image_start: int = 0,
) -> Counts:
    """How many pairs have their cosine in each bin of [-1, 1]; counts of parts, each with each, add up to those of all.

    start, image_start: which of all texts and images the first rows of the parts are; only `all` does without.

    >>> part = cosine_counts(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0], [3.0, 0.0]]), pairs="matched", start=1)
    >>> quartiles(part).median
    1.0
    """
    if pairs not in _PAIRS:
        raise ActstoreError(f"pairs {pairs!r} are not one of {', '.join(_PAIRS)}")
    texts, images = _directions(text), _directions(image)
    if texts.shape[1] != images.shape[1]:
        raise ActstoreError(f"text vectors of length {texts.shape[1]}, image vectors of length {images.shape[1]}")
    counts = np.zeros(_BINS, np.int64)
    if pairs == "matched":
        first, end = max(start, image_start), min(start + len(texts), image_start + len(images))
        own = np.arange(first, end)
        return _counted(counts, np.vecdot(texts[own - start], images[own - image_start]), absolute)
    step = max(1, _BLOCK_BYTES // (4 * len(images)))
    columns = np.arange(image_start, image_start + len(images))
    for first in range(0, len(texts), step):
        cosines = texts[first : first + step] @ images.T
        rows = np.arange(start + first, start + first + len(cosines))[:, None]
        chosen = {"all": np.s_[:], "unmatched": rows != columns, "lower": rows > columns}[pairs]
        _counted(counts, cosines[chosen].ravel(), absolute)
    return counts


def quartiles(counts: Counts) -> Quartiles:
    """The quartiles of the cosines that were counted.

    Raises ActstoreError if there were none.
    """
    total = int(counts.sum())
    if total == 0:
        raise ActstoreError("no pairs to take quartiles of; give at least one text and one image, two for i != j")
    below = np.cumsum(counts)
    places = np.array([0.25, 0.5, 0.75]) * (total - 1)
    low, high = (np.searchsorted(below, rank, side="right") for rank in (np.floor(places), np.ceil(places)))
    centers = (low + (high - low) * (places % 1)) * 2 / (_BINS - 1) - 1
    return Quartiles(*map(float, centers))


def _counted(counts: Counts, cosines: NDArray[np.float32], absolute: bool) -> Counts:
    """Adds cosines to the counts of their bins, which are centred on -1, ..., 1."""
    values = np.abs(cosines) if absolute else cosines
    half = np.float32((_BINS - 1) / 2)
    bins = np.rint(values * half + half).clip(0, _BINS - 1).astype(np.int64)
    np.add.at(counts, bins, 1)
    return counts


def _directions(x: NDArray[np.number]) -> NDArray[np.float32]:
    """Unit vectors in float32, normalised in float64 a block at a time."""
    points = parse(x)
    zeros = np.flatnonzero(~points.any(axis=1))
    if len(zeros):
        raise UndefinedError(
            f"row {zeros[0]} is a zero vector ({len(zeros)} of {len(points)} are) and has no direction; leave them out"
        )
    unit = np.empty(points.shape, np.float32)
    step = max(1, _BLOCK_BYTES // (8 * points.shape[1]))
    for first in range(0, len(points), step):
        unit[first : first + step] = parse(points[first : first + step], "normalised")
    return unit
