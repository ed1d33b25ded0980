"""Exact nearest neighbours of points, of the same or of other groups."""

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.neighbors.exact import SCAN_BYTES, blocks, scanned
from actstore_analyze.neighbors.identical import expanded, owners_of
from actstore_analyze.neighbors.neighbors import Ints, Neighbors
from actstore_analyze.neighbors.points import METRICS, Points, centre_of, moderate, parse
from actstore_analyze.neighbors.search import searched

__all__ = ["firsts", "nearest", "numbered"]

_UNIT_TIE = 64 * float(np.finfo(np.float64).eps)  # unit vectors are rounded: distances this close are equal


def nearest(
    x: NDArray[np.number],
    k: int,
    *,
    metric: str = "euclidean",
    groups: NDArray[np.integer] | None = None,
    queries: NDArray[np.integer] | None = None,
) -> Neighbors:
    """The k nearest neighbours of each of the n points in x (n, d), a point never being its own.

    metric: `euclidean`; `normalised` (euclidean between unit vectors); `cosine` (1 - cos).
    groups (n,): points of one group are never each other's neighbours.
    queries (m,), ascending: the points whose neighbours are looked for, among all n; every point without it.
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
    points = parse(x, metric)
    if k < 1:
        raise ActstoreError(f"k = {k}: ask for at least one neighbour")
    if len(points) <= k:
        raise ActstoreError(
            f"{len(points)} points have no {k} neighbours each; take k < {len(points)} or select more rows"
        )
    points, scale = moderate(points)
    tie = 0.0 if metric == "euclidean" else _UNIT_TIE
    rows = np.arange(len(points)) if queries is None else _asked(queries, len(points))
    if groups is None:
        found = _of_all(points, rows, k, tie)
    else:
        found = _of_others(points, rows, k, tie, numbered(groups, len(points), k))
    of, others = (None, 0) if queries is None else (rows, len(points) - len(rows))
    return Neighbors(METRICS[metric](found.distances * scale), found.indices, of, others)


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


def _of_all(points: Points, rows: Ints, k: int, tie: float) -> Neighbors:
    """Neighbours of the rows among all points; identical ones are looked for once."""
    owner = owners_of(points)
    distinct = np.unique(owner)
    if len(distinct) == len(points):
        return searched(points, rows, k, tie)
    group = np.searchsorted(distinct, owner)
    among_distinct = searched(points[distinct], np.unique(group[rows]), min(k, len(distinct) - 1), tie)
    return expanded(among_distinct, group, rows, k)


def _of_others(points: Points, rows: Ints, k: int, tie: float, groups: Ints) -> Neighbors:
    """Neighbours of other groups: the nearest of all without the own group, which hides its size - 1 of them at most.

    Points whose list is used up by a large group are compared with every other.
    """
    n = len(points)
    hidden = int(np.bincount(groups).max()) - 1
    found = _of_all(points, rows, min(n - 1, k + min(hidden, max(32, k))), tie)
    other = groups[found.indices] != groups[rows][:, None]
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]
    distances, indices = np.take_along_axis(found.distances, order, 1), np.take_along_axis(found.indices, order, 1)
    left = np.flatnonzero(other.sum(axis=1) < k)
    centre = centre_of(points)
    for part in blocks(len(left), n * 8, SCAN_BYTES):
        some = left[part]
        distances[some], indices[some] = scanned(points, centre, rows[some], k, tie, groups)
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
