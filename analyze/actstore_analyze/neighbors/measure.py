"""Exact nearest neighbours of points, of the same or of other groups."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.devices import HOST, Device
from actstore_analyze.neighbors.blocks import Block, search_blocks
from actstore_analyze.neighbors.identical import expanded, owners_of
from actstore_analyze.neighbors.neighbors import Floats, Ints, Neighbors
from actstore_analyze.neighbors.points import METRICS, Points, moderate, parse, tie_of
from actstore_analyze.neighbors.search import searched
from actstore_analyze.neighbors.tiles import tiler_on

__all__ = ["Searchable", "firsts", "nearest", "neighbors_of", "numbered"]


def nearest(
    x: NDArray[np.number],
    k: int,
    *,
    metric: str = "euclidean",
    groups: NDArray[np.integer] | None = None,
    queries: NDArray[np.integer] | None = None,
    device: Device = HOST,
) -> Neighbors:
    """The k nearest neighbours of each of the n points in x (n, d), a point never being its own.

    metric: `euclidean`; `normalised` (euclidean between unit vectors); `cosine` (1 - cos).
    groups (n,): points of one group are never each other's neighbours.
    queries (m,), ascending: the points whose neighbours are looked for, among all n; every point without it.
    device: where float32 products propose (actstore_analyze.devices.opened); neighbours are the same bit for bit.
    Exact in float64 for float32 and float64 points, whatever their mean and scale; equal distances
    are ordered by index, identical points included.
    Raises ActstoreError for k < 1, fewer than k points beside a point (or its group), NaN or infinity, a zero vector
    where directions are asked for, and queries that are no points, or not ascending.

    >>> found = nearest(np.array([[0.0], [1.0], [3.0], [3.0]]), 2)
    >>> found.indices.tolist()
    [[1, 2], [0, 2], [3, 1], [2, 1]]
    >>> found.distances.tolist()
    [[1.0, 3.0], [1.0, 2.0], [0.0, 2.0], [0.0, 2.0]]
    >>> nearest(np.array([[0.0], [1.0], [3.0], [3.0]]), 2, groups=np.array([0, 0, 1, 1])).indices.tolist()
    [[2, 3], [2, 3], [1, 0], [1, 0]]
    >>> nearest(np.array([[0.0], [1.0], [3.0], [3.0]]), 2, queries=np.array([1, 3])).indices.tolist()
    [[0, 2], [2, 1]]
    """
    points, scale = moderate(parse(x, metric))
    return neighbors_of(_Here(points, scale, tie_of(metric), device), k, metric=metric, groups=groups, queries=queries)


class Searchable(Protocol):
    """Points that are searched: those of an array, or of blocks that come from elsewhere.

    scale: what their distances are multiplied by.
    """

    @property
    def scale(self) -> float: ...

    def __len__(self) -> int: ...

    def owners(self) -> Ints:
        """For each point the lowest index of a point equal to it."""

    def search(self, distinct: Ints, rows: Ints, k: int) -> Neighbors:
        """Of the distinct points (m,), ascending, those at `rows` have k neighbours among them, by their places there.

        Unit vectors no further apart than a tie are equally far.
        """

    def scan(self, rows: Ints, k: int, groups: Ints) -> tuple[Floats, Ints]:
        """Distances and indices (len(rows), k) of neighbours of other groups (n,)."""


def neighbors_of(
    points: Searchable,
    k: int,
    *,
    metric: str = "euclidean",
    groups: NDArray[np.integer] | None = None,
    queries: NDArray[np.integer] | None = None,
) -> Neighbors:
    """As `nearest`, of points that are parsed."""
    if k < 1:
        raise ActstoreError(f"k = {k}: ask for at least one neighbour")
    if len(points) <= k:
        raise ActstoreError(
            f"{len(points)} points have no {k} neighbours each; take k < {len(points)} or select more rows"
        )
    rows = np.arange(len(points)) if queries is None else _asked(queries, len(points))
    if groups is None:
        found = _of_all(points, rows, k)
    else:
        found = _of_others(points, rows, k, numbered(groups, len(points), k))
    of, others = (None, 0) if queries is None else (rows, len(points) - len(rows))
    return Neighbors(METRICS[metric](found.distances * points.scale), found.indices, of, others)


class _Here:
    """Points of an array."""

    def __init__(self, points: Points, scale: float, tie: float, device: Device) -> None:
        self.points, self.scale, self.tie, self.device = points, scale, tie, device

    def __len__(self) -> int:
        return len(self.points)

    def owners(self) -> Ints:
        return owners_of(self.points)

    def search(self, distinct: Ints, rows: Ints, k: int) -> Neighbors:
        points = self.points if len(distinct) == len(self.points) else self.points[distinct]
        if self.device.xp is np:
            return searched(points, rows, k, self.tie)
        return Neighbors(*self._there(points, rows, k, np.arange(len(points))), rows)

    def scan(self, rows: Ints, k: int, groups: Ints) -> tuple[Floats, Ints]:
        return self._there(self.points, rows, k, groups)

    def _there(self, points: Points, rows: Ints, k: int, groups: Ints) -> tuple[Floats, Ints]:
        numbers = np.arange(len(points))
        own = points if len(rows) == len(points) else points[rows]
        asked, base = Block(own, rows, groups[rows]), [Block(points, numbers, groups)]
        return search_blocks(asked, base, k, self.tie, tiler_on(self.device))


def firsts(x: NDArray[np.number]) -> Ints:
    """For each of the points x (n, d) the lowest index of a point equal to it.

    >>> firsts(np.array([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0]])).tolist()
    [0, 1, 0]
    """
    return owners_of(parse(x))


def _asked(queries: NDArray[np.integer], n: int) -> Ints:
    """The queries (m,), checked."""
    rows = np.asarray(queries)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
        raise ActstoreError(f"queries must be numbers of points, got {rows.dtype} of shape {rows.shape}")
    if rows[0] < 0 or rows[-1] >= n or (np.diff(rows.astype(np.int64)) <= 0).any():
        raise ActstoreError(f"queries must be ascending, each once, from 0 to {n - 1}")
    return rows.astype(np.int64)


def _of_all(points: Searchable, rows: Ints, k: int) -> Neighbors:
    """Neighbours of the rows among all points; identical ones are looked for once."""
    owner = points.owners()
    distinct = np.unique(owner)
    if len(distinct) == len(points):
        return points.search(distinct, rows, k)
    group = np.searchsorted(distinct, owner)
    among_distinct = points.search(distinct, np.unique(group[rows]), min(k, len(distinct) - 1))
    return expanded(among_distinct, group, rows, k)


def _of_others(points: Searchable, rows: Ints, k: int, groups: Ints) -> Neighbors:
    """Neighbours of other groups: the nearest of all without the own group, which hides its size - 1 of them at most.

    Points whose list is used up by a large group are compared with every other.
    """
    n = len(points)
    hidden = int(np.bincount(groups).max()) - 1
    found = _of_all(points, rows, min(n - 1, k + min(hidden, max(32, k))))
    other = groups[found.indices] != groups[rows][:, None]
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]
    distances, indices = np.take_along_axis(found.distances, order, 1), np.take_along_axis(found.indices, order, 1)
    left = np.flatnonzero(other.sum(axis=1) < k)
    if len(left):
        distances[left], indices[left] = points.scan(rows[left], k, groups)
    return Neighbors(distances, indices)


def numbered(groups: NDArray[np.integer], n: int, k: int) -> Ints:
    """The number of each point's group (n,), 0, 1, ...; raises ActstoreError where k neighbours are not to be had."""
    if groups.shape != (n,):
        raise ActstoreError(f"{n} points but groups of shape {groups.shape}; give one per point")
    own: Ints
    _, own, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if n - sizes.max() < k:
        raise ActstoreError(
            f"{n} points, {sizes.max()} of them in one group: these have no {k} neighbours outside it; "
            "take fewer neighbours or smaller groups"
        )
    return own
