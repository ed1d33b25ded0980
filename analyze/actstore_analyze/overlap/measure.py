"""Neighbourhood overlap: how far nearest neighbours agree with labels, or with those of other vectors."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from actstore.errors import ActstoreError
from actstore_analyze.neighbors import Neighbors, nearest, numbered
from actstore_analyze.study.intervals import LeftOut, signs

__all__ = [
    "chance_level",
    "data_chance_level",
    "data_overlap",
    "data_overlap_from",
    "highest",
    "known_for_interval",
    "label_overlap",
    "label_overlap_from",
    "label_overlap_per_point",
    "label_overlap_without",
]

Floats = NDArray[np.float64]
Classes = NDArray[np.intp]
Ints = NDArray[np.int64]
LIKE = 10  # neighbours, at least, that say what another would be

_AVERAGES: dict[str, Callable[[Floats, Classes], float]] = {
    "uniform": lambda per_point, _: float(per_point.mean()),
    "class": lambda per_point, own: float((np.bincount(own, per_point) / np.bincount(own)).mean()),
}


def label_overlap(
    x: NDArray[np.number],
    y: ArrayLike,
    k: int = 30,
    *,
    metric: str = "euclidean",
    weights: str = "uniform",
    groups: NDArray[np.integer] | None = None,
) -> float:
    """Share [0, 1] of the k nearest neighbours that carry the point's own label, averaged over points.

    x (n, d), labels y (n,). The Narrow Gate (Serra et al.), neighbourhood overlap chi^{l,gt}.
    weights: `uniform` counts every point once, as the paper; `class` every class once, as DADApy.
    groups (n,): points of one group are never each other's neighbours.
    Raises ActstoreError where `nearest` does, for labels that do not fit the points and for other weights.

    >>> x = np.array([[0.0], [1.0], [2.0], [9.0], [9.5], [11.0]])
    >>> label_overlap(x, ["a", "a", "b", "b", "b", "b"], k=2)
    0.6666666666666666
    >>> label_overlap(x, ["a", "a", "b", "b", "b", "b"], k=2, weights="class")
    0.625
    """
    average, own = _average(weights), _classes(y, len(x))
    return average(label_overlap_from(nearest(x, k, metric=metric, groups=groups), own), own)


def label_overlap_per_point(x: NDArray[np.number], y: ArrayLike, k: int = 30, *, metric: str = "euclidean") -> Floats:
    """Share (n,) of each point's k nearest neighbours that carry its own label.

    >>> label_overlap_per_point(np.array([[0.0], [1.0], [3.0], [7.0]]), [0, 0, 1, 1], k=1).tolist()
    [1.0, 1.0, 0.0, 1.0]
    """
    return label_overlap_from(nearest(x, k, metric=metric), y)


def label_overlap_from(neighbors: Neighbors, y: ArrayLike) -> Floats:
    """Share (n,) of each point's neighbours that carry its own label, for neighbours found before; of m queries (m,).

    >>> found = nearest(np.array([[0.0], [1.0], [3.0], [7.0]]), 2)
    >>> label_overlap_from(found, [0, 0, 1, 1]).tolist()
    [0.5, 0.5, 0.0, 0.5]
    """
    shares: Floats = _alike(neighbors, y).mean(axis=1)
    return shares


def known_for_interval(n: int, k: int) -> int:
    """How many neighbours of each of n points the interval of a label overlap at k takes: more than k of few.

    0 where there is no interval: one point left out, all others are everybody's neighbours.
    """
    return min(max(k, LIKE), n - 1) if n > k + 2 else 0


def label_overlap_without(neighbors: Neighbors, y: ArrayLike, k: int, order: Ints | None = None) -> LeftOut:
    """Label overlap at k of the others, should each of n points in turn not be there, and what pairs of them do to it.

    neighbors: `known_for_interval` of each, of which the k nearest count. In the place of one that is left out stands
    what the others of them are on average: which would be the next is chance that samples do not vary by, and with it
    intervals are too wide. Of m queries among n points: their mean overlap without each of the n, which is left out as
    a query, too. order (n,): the numbers of the points, by which they have their `signs`; else 0 .. n - 1.
    What the jackknife needs (study/intervals): a sample has a part in the overlaps of others, so that drawing points'
    own shares again makes intervals that are too narrow. A pair of neighbours is in the part of either, and must not
    count twice: most of the spread is theirs where labels are random, and where k is 1 or 2.

    >>> x, y = np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([0, 0, 1, 1])
    >>> label_overlap_without(nearest(x, 2), y, 2).without.round(3).tolist()
    [0.167, 0.333, 0.667, 0.333]
    """
    alike = _alike(neighbors, y).astype(np.float64)
    known = alike.shape[1]
    instead = (alike.sum(axis=1, keepdims=True) - alike[:, :k]) / (known - 1)
    beyond, near, m = alike[:, :k] - instead, neighbors.indices[:, :k], len(alike)
    own = alike[:, :k].sum(axis=1)
    without = own.sum() - np.asarray(np.bincount(near.ravel(), beyond.ravel(), neighbors.n), np.float64)
    left = np.full(neighbors.n, m)
    without[neighbors.points] -= own
    left[neighbors.points] -= 1
    numbers = np.arange(neighbors.n) if order is None else order
    pairs = csr_array((beyond.astype(np.float32).ravel(), near.ravel(), np.arange(0, m * k + 1, k)), (m, neighbors.n))
    of_draws = np.concatenate(
        [
            np.einsum("id,id->d", drawn[neighbors.points], pairs @ drawn, dtype=np.float64)
            for drawn in (some[numbers] for some in signs(neighbors.n))
        ]
    )
    # Of what a neighbour is and the mean of the others, as many as are known less one, the latter's spread is left out.
    return LeftOut(without / (left * k), of_draws * np.sqrt(1 - 1 / known) / (m * k))


def data_overlap(
    x: NDArray[np.number],
    z: NDArray[np.number],
    k: int = 30,
    *,
    metric: str = "euclidean",
    groups: NDArray[np.integer] | None = None,
) -> float:
    """Share [0, 1] of the k nearest neighbours that two representations x (n, d) and z (n, e) have in common.

    Mean over points of |N_k(x_i) & N_k(z_i)| / k; points of one group (n,) are never neighbours.
    Raises ActstoreError for unequal numbers of points.

    >>> x = np.array([[0.0], [1.0], [3.0], [7.0]])
    >>> data_overlap(x, -x, k=2), data_overlap(x, x[::-1], k=1)
    (1.0, 0.5)
    """
    if len(x) != len(z):
        raise ActstoreError(f"{len(x)} points in one representation but {len(z)} in the other; select the same rows")
    own, other = (nearest(points, k, metric=metric, groups=groups) for points in (x, z))
    return float(data_overlap_from(own, other).mean())


def data_overlap_from(own: Neighbors, other: Neighbors) -> Floats:
    """As `data_overlap`, of each point (n,), or of m queries (m,), from neighbours found before."""
    rows = np.arange(len(own.indices))[:, None] * own.n
    shares: Floats = np.isin(rows + own.indices, rows + other.indices).mean(axis=1)
    return shares


def data_chance_level(n: int, k: int, *, groups: NDArray[np.integer] | None = None) -> float:
    """Data overlap [0, 1] to expect of neighbours drawn at random: the average of k / (points that may be neighbours).

    Raises ActstoreError where a group (n,) leaves fewer than k of those.

    >>> data_chance_level(5, 2), round(data_chance_level(5, 2, groups=np.array([0, 0, 0, 1, 1])), 4)
    (0.5, 0.8667)
    """
    group = numbered(np.arange(n) if groups is None else groups, n, k)
    return float((k / (n - np.bincount(group)[group])).mean())


def chance_level(y: ArrayLike, *, weights: str = "uniform", groups: NDArray[np.integer] | None = None) -> float:
    """Label overlap [0, 1] to expect of neighbours drawn at random: the average of (n_c - 1) / (n - 1).

    With groups (n,) neighbours are drawn from the others: (n_c - n_cg) / (n - n_g), of n_g points in the own group,
    n_cg of them in the own class.

    >>> chance_level(np.repeat(np.arange(100), 100)) == 99 / 9999
    True
    >>> chance_level(["a", "a", "a", "b"]), chance_level(["a", "a", "a", "b"], weights="class")
    (0.5, 0.3333333333333333)
    """
    average, own = _average(weights), _classes(y, np.size(y))
    if len(own) < 2:
        raise ActstoreError(f"{len(own)} labels: the chance level needs at least two points")
    group = np.arange(len(own)) if groups is None else np.unique(groups, return_inverse=True)[1]
    alike, size = _together(group * (own.max() + 1) + own), _together(group)
    if (size == len(own)).any():
        raise ActstoreError(f"all {len(own)} points are of one group: nothing is left to compare them with")
    return average((_together(own) - alike) / (len(own) - size), own)


def _together(numbers: Classes) -> Floats:
    """How many have the number of each (n,)."""
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return counts[which].astype(np.float64)


def highest(y: ArrayLike, k: int, *, weights: str = "uniform") -> float:
    """The label overlap [0, 1] that no arrangement of points exceeds: the average of min(n_c - 1, k) / k.

    >>> highest(["a", "a", "a", "b", "b"], 2), highest(["a", "a", "a", "b", "b"], 1)
    (0.8, 1.0)
    """
    average, own = _average(weights), _classes(y, np.size(y))
    return average(np.minimum(np.bincount(own)[own] - 1, k) / k, own)


def averaged(shares: Floats, y: ArrayLike, weights: str) -> float:
    """The average of points' overlaps (n,) with labels y (n,), as `label_overlap` takes it."""
    return _average(weights)(shares, _classes(y, len(shares)))


def _alike(neighbors: Neighbors, y: ArrayLike) -> NDArray[np.bool]:
    """Which neighbours (m, k) carry the label of the point that they are of."""
    own = _classes(y, neighbors.n)
    alike: NDArray[np.bool] = own[neighbors.indices] == own[neighbors.points, None]
    return alike


def _classes(y: ArrayLike, n: int) -> Classes:
    """The number of each point's class (n,)."""
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise ActstoreError(f"{n} points but labels of shape {labels.shape}; give one label per point")
    missing = np.flatnonzero([label is None or label != label for label in labels.tolist()])
    if len(missing):
        raise ActstoreError(f"point {missing[0]} has no label ({len(missing)} of {n} have none); leave them out")
    return np.unique(labels, return_inverse=True)[1]


def _average(weights: str) -> Callable[[Floats, Classes], float]:
    if weights not in _AVERAGES:
        raise ActstoreError(f"weights {weights!r} are not one of {', '.join(_AVERAGES)}")
    return _AVERAGES[weights]
