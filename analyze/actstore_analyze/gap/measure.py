"""Modality gap: the cosines between text and image vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError, UndefinedError
from actstore_analyze.devices import HOST, Device
from actstore_analyze.neighbors import parse
from actstore_analyze.study.intervals import Z, left_out, normal

__all__ = ["Quartiles", "Shares", "bounds", "cosine_counts", "cosine_gap", "median_without", "quartiles", "shares"]

Counts = NDArray[np.int64]

_BINS = 1 << 21  # of [-1, 1]: half a bin is 5e-7, what float32 resolves in a cosine
_BLOCK_BYTES = 1 << 25
_BLOCK_BYTES_THERE = 1 << 28  # on a device
_PAIRS = ("all", "unmatched", "lower", "matched")


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The quartiles of a distribution."""

    q25: float
    median: float
    q75: float


@dataclass(frozen=True)
class Shares:
    """Of each of n samples how many pairs its texts are in, how many its images, and how many both, (2, n) each: those
    with a cosine that is at most a given one, and all. Those of parts add up.
    """

    texts: Counts
    images: Counts
    own: Counts

    def __add__(self, other: "Shares") -> "Shares":
        return Shares(self.texts + other.texts, self.images + other.images, self.own + other.own)

    @property
    def without(self) -> NDArray[np.float64]:
        """The share of all pairs without each sample (n,)."""
        whole = self.texts.sum(axis=1, keepdims=True)
        below, pairs = whole - self.texts - self.images + self.own
        return np.asarray(below / np.maximum(pairs, 1))

    @property
    def error(self) -> float:
        """The standard error of the share of all pairs, by the jackknife over samples."""
        return left_out(self.without)


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
    device: Device = HOST,
) -> Counts:
    """How many pairs have their cosine in each bin of [-1, 1]; counts of parts, each with each, add up to those of all.

    start, image_start: which of all texts and images the first rows of the parts are; only `all` does without.
    device: where they are multiplied and counted.

    >>> part = cosine_counts(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0], [3.0, 0.0]]), pairs="matched", start=1)
    >>> quartiles(part).median
    1.0
    """
    counts = device.put(np.zeros(_BINS, np.int64))
    for block in _blocks(text, image, pairs, start, image_start, device):
        _count(device, counts, block.cosines[block.are_pairs], absolute)
    return device.get(counts)


def shares(
    text: NDArray[np.number],
    image: NDArray[np.number],
    most: float,
    samples: tuple[Counts, Counts],
    *,
    pairs: str = "all",
    absolute: bool = False,
    start: int = 0,
    image_start: int = 0,
    device: Device = HOST,
) -> Shares:
    """How many pairs each sample is in, and in how many with a cosine of `most` or less; otherwise as `cosine_counts`.

    samples: of which, 0 .. n - 1, all texts and all images are.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> shares(x, x, 0.5, (np.arange(2), np.arange(2))).texts.tolist()
    [[1, 1], [2, 2]]
    """
    of_texts, of_images = samples
    n = 1 + max(int(of_texts.max()), int(of_images.max()))
    found = Shares(*np.zeros((3, 2, n), np.int64))
    for block in _blocks(text, image, pairs, start, image_start, device):
        i, j = of_texts[block.texts], of_images[block.images]
        is_own = device.put(i)[:, None] == device.put(j)[None]
        values = abs(block.cosines) if absolute else block.cosines
        for row, counted in enumerate((block.are_pairs & (values <= most + 1 / (_BINS - 1)), block.are_pairs)):
            sums = counted.sum(1), counted.sum(0), (counted & is_own).sum(1)
            for total, whose, each in zip((found.texts, found.images, found.own), (i, j, i), sums, strict=True):
                total[row] += np.bincount(whose, device.get(each), n).astype(np.int64)
    return found


class _Block(NamedTuple):
    """Cosines (r, c) of some texts (r,) with some images (c,), and which of these pairs are asked for, both on a
    device."""

    cosines: Any
    are_pairs: Any
    texts: Counts
    images: Counts


def _blocks(
    text: NDArray[np.number], image: NDArray[np.number], pairs: str, start: int, image_start: int, device: Device
) -> Iterator[_Block]:
    if pairs not in _PAIRS:
        raise ActstoreError(f"pairs {pairs!r} are not one of {', '.join(_PAIRS)}")
    texts, images = _directions(text), _directions(image)
    if texts.shape[1] != images.shape[1]:
        raise ActstoreError(f"text vectors of length {texts.shape[1]}, image vectors of length {images.shape[1]}")
    there = device.put(images)
    own_images = np.arange(image_start, image_start + len(images))
    columns = device.put(own_images)[None]
    step = max(1, (_BLOCK_BYTES if device is HOST else _BLOCK_BYTES_THERE) // (4 * len(images)))
    for first in range(0, len(texts), step):
        own_texts = np.arange(start + first, start + min(first + step, len(texts)))
        rows = device.put(own_texts)[:, None]
        asked = {"all": rows >= 0, "unmatched": rows != columns, "lower": rows > columns, "matched": rows == columns}
        are_pairs = device.xp.broadcast_to(asked[pairs], (len(own_texts), len(images)))
        yield _Block(device.put(texts[first : first + step]) @ there.T, are_pairs, own_texts, own_images)


def quartiles(counts: Counts) -> Quartiles:
    """The quartiles of the cosines that were counted.

    Raises ActstoreError if there were none.
    """
    if not counts.any():
        raise ActstoreError("no pairs to take quartiles of; give at least one text and one image, two for i != j")
    return Quartiles(*_quantiles(counts, [0.25, 0.5, 0.75]))


def bounds(counts: Counts, error: float) -> tuple[float, float]:
    """The 95 % interval of the median of cosines, from the standard error of the share of pairs below it (Woodruff
    1952): the quantiles of the interval of that share.
    """
    low, high = _quantiles(counts, [min(max(end, 0.0), 1.0) for end in normal(0.5, error)])
    return low, high


def median_without(counts: Counts, shares: Shares, median: float) -> NDArray[np.float64]:
    """About the median of the cosines without each sample (n,): as far off as the share of pairs below it is, by how
    many cosines there are within its interval.
    """
    low, high = bounds(counts, shares.error)
    slope = (high - low) / (2 * Z * shares.error) if shares.error else 0.0
    return np.asarray(median - slope * (shares.without - shares.without.mean()))


def _quantiles(counts: Counts, at: Sequence[float]) -> list[float]:
    """Quantiles of the cosines that were counted, interpolated between order statistics, as numpy."""
    below = np.cumsum(counts)
    places = np.array(at) * (int(below[-1]) - 1)
    low, high = (np.searchsorted(below, rank, side="right") for rank in (np.floor(places), np.ceil(places)))
    centers = (low + (high - low) * (places % 1)) * 2 / (_BINS - 1) - 1
    return [float(center) for center in centers]


def _count(device: Device, counts: Any, cosines: Any, absolute: bool) -> None:
    """Add cosines to the counts of their bins, which are centred on -1, ..., 1."""
    values, half = abs(cosines) if absolute else cosines, (_BINS - 1) / 2
    bins = device.xp.round(values * half + half).clip(0, _BINS - 1)
    if device is HOST:
        np.add.at(counts, bins.astype(np.int64), 1)
    else:
        counts += device.xp.bincount(bins.long(), minlength=_BINS)


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
