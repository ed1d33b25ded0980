"""Exact nearest neighbours: FAISS proposes in float32, float64 differences decide, an error bound proves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import faiss
import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError, UndefinedError
from actstore.errors import nearest as did_you_mean

__all__ = ["Neighbors", "firsts", "nearest", "numbered", "parse"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Points = NDArray[np.float32] | NDArray[np.float64]

# Each metric is a function of the euclidean distance, between unit vectors for all but the first.
_METRICS: dict[str, Callable[[Floats], Floats]] = {
    "euclidean": lambda distances: distances,
    "normalised": lambda distances: distances,
    "cosine": lambda distances: distances**2 / 2,  # 1 - cos = chord^2 / 2, without its cancellation
}
_UNIT_TIE = 64 * float(np.finfo(np.float64).eps)  # unit vectors are rounded: distances this close are equal
_PAIRS_BYTES = 1 << 20  # differences of one block stay in the cache of a core
_SCAN_BYTES = 1 << 26
_SAMPLE = 512  # points that say where the others are
_MODERATE = 2.0**60  # squares of such values are far from the limits of float32


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The k nearest points of each point, nearest first: distances (n, k) and indices (n, k).

    queries (m,): the points that these are of, ascending, of which there are m rows; None where they are of all.
    others: how many points there are beside the queries.
    """

    distances: Floats
    indices: Ints
    queries: Ints | None = None
    others: int = 0

    @property
    def n(self) -> int:
        """How many points there are."""
        return len(self.indices) + self.others

    @property
    def points(self) -> Ints:
        """The index of the point that each row is of."""
        return np.arange(len(self.indices)) if self.queries is None else self.queries

    def first(self, k: int) -> "Neighbors":
        """The nearest k of the neighbours kept.

        >>> nearest(np.array([[0.0], [1.0], [3.0]]), 2).first(1).indices.tolist()
        [[1], [0], [1]]
        """
        kept = self.indices.shape[1]
        if not 1 <= k <= kept:
            raise ActstoreError(f"k = {k}, but {kept} neighbours of each point are known; search for k or more")
        return Neighbors(self.distances[:, :k], self.indices[:, :k], self.queries, self.others)

    def among(self, chosen: Ints, most: int) -> "Neighbors":
        """Those of chosen points (m,), ascending, among themselves: as many as each is known to have, `most` at most.

        >>> nearest(np.array([[0.0], [1.0], [3.0], [7.0]]), 3).among(np.array([0, 2, 3]), 1).indices.tolist()
        [[1], [0], [1]]
        """
        place = np.full(self.n, -1)
        place[chosen] = np.arange(len(chosen))
        rows = np.flatnonzero(place[self.points] >= 0)
        indices = place[self.indices[rows]]
        so_far = (indices >= 0).cumsum(axis=1)
        k = min(most, int(so_far[:, -1].min(initial=most)))
        kept = (indices >= 0) & (so_far <= k)
        shape, queries = (len(rows), k), None if self.queries is None else place[self.queries[rows]]
        return Neighbors(
            self.distances[rows][kept].reshape(shape), indices[kept].reshape(shape), queries, len(chosen) - len(rows)
        )


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
    points, scale = _moderate(points)
    tie = 0.0 if metric == "euclidean" else _UNIT_TIE
    rows = np.arange(len(points)) if queries is None else _asked(queries, len(points))
    if groups is None:
        found = _of_all(points, rows, k, tie)
    else:
        found = _of_others(points, rows, k, tie, numbered(groups, len(points), k))
    of, others = (None, 0) if queries is None else (rows, len(points) - len(rows))
    return Neighbors(_METRICS[metric](found.distances * scale), found.indices, of, others)


def firsts(x: NDArray[np.number]) -> Ints:
    """For each of the points x (n, d) the lowest index of a point equal to it.

    >>> firsts(np.array([[1.0, 0.0], [2.0, 0.0], [1.0, -0.0]])).tolist()
    [0, 1, 0]
    """
    return _owners(parse(x))


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
    owner = _owners(points)
    distinct = np.unique(owner)
    if len(distinct) == len(points):
        return _search(points, rows, k, tie)
    group = np.searchsorted(distinct, owner)
    among_distinct = _search(points[distinct], np.unique(group[rows]), min(k, len(distinct) - 1), tie)
    return _expand(among_distinct, group, rows, k)


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
    centre = _centre(points)
    for part in _blocks(len(left), n * 8, _SCAN_BYTES):
        some = left[part]
        distances[some], indices[some] = _scanned(points, centre, rows[some], k, tie, groups)
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


def parse(x: NDArray[np.number], metric: str = "euclidean") -> Points:
    """Points (n, d) as contiguous float32 or float64, finite; unit vectors in float64 for all but euclidean.

    >>> parse(np.array([[3, 4]]), "cosine").tolist()
    [[0.6, 0.8]]
    """
    if metric not in _METRICS:
        raise ActstoreError(
            f"metric {metric!r} is not one of {', '.join(_METRICS)}{did_you_mean(metric, list(_METRICS))}"
        )
    points = np.asarray(x)
    if points.ndim != 2 or points.shape[1] == 0 or points.dtype.kind not in "fiu":
        raise ActstoreError(f"points must be numbers of shape (n, d), got {points.dtype} of shape {points.shape}")
    kind = np.float32 if points.dtype in (np.float16, np.float32) else np.float64
    points = np.ascontiguousarray(points, dtype=kind)
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise ActstoreError(
            f"row {bad} holds NaN or infinity ({int((~finite).sum())} of {len(points)} rows do); leave them out"
        )
    return points if metric == "euclidean" else _unit(points)


def _unit(points: Points) -> Floats:
    """Rows divided by their norms, in float64."""
    largest = np.abs(points).max(axis=1, initial=0)
    if not largest.all():
        zeros = np.flatnonzero(largest == 0)
        raise UndefinedError(
            f"row {zeros[0]} is a zero vector ({len(zeros)} of {len(points)} rows are) and has no direction; "
            "leave them out or use the euclidean metric"
        )
    unit: Floats = np.ldexp(points.astype(np.float64), -np.frexp(largest)[1][:, None])
    unit /= np.sqrt(np.einsum("nd,nd->n", unit, unit))[:, None]
    return unit


def _moderate(points: Points) -> tuple[Points, float]:
    """Points divided by a power of two if their squares would come near the limits of float32, and that power."""
    size = float(max(points.max(initial=0), -points.min(initial=0)))
    if size == 0 or 1 / _MODERATE < size < _MODERATE:
        return points, 1.0
    scale = 2.0 ** (int(np.frexp(size)[1]) - 1)
    return points / np.float64(scale), scale


def _owners(points: Points) -> Ints:
    """For each point the lowest index of a point equal to it; only those with the same sum are looked at."""
    owners = np.arange(len(points))
    with np.errstate(over="ignore", invalid="ignore"):  # equal vectors have equal sums, whatever these are
        sums = points.sum(axis=1)
    _, which, counts = np.unique(sums, return_inverse=True, return_counts=True)
    seen: dict[bytes, int] = {}
    for i in np.flatnonzero(counts[which] > 1).tolist():
        owners[i] = seen.setdefault(blake2b(points[i] + 0.0, digest_size=16).digest(), i)
    return owners


def _search(points: Points, rows: Ints, k: int, tie: float) -> Neighbors:
    """Neighbours of rows among distinct points: FAISS candidates where provably enough, else a float64 scan."""
    n = len(points)
    found = Neighbors(np.empty((len(rows), k)), np.empty((len(rows), k), np.int64), rows)
    if k == 0:
        return found
    centre = _centre(points)
    centred = _centred(points, centre)
    width = min(n, k + 1 + max(32, k // 2))
    estimates, columns = faiss.knn(centred if len(rows) == n else centred[rows], centred, width)
    possible = _possible(estimates, columns, centred, rows, k, tie)
    certain = np.flatnonzero(~possible[:, -1] | (width == n))
    row, place = np.nonzero(possible[certain] & (columns[certain] != rows[certain, None]))
    found.distances[certain], found.indices[certain] = _settled(
        points, rows[certain], row, columns[certain[row], place], k, tie
    )
    doubtful, own = np.setdiff1d(np.arange(len(rows)), certain), np.arange(n)
    for part in _blocks(len(doubtful), n * 8, _SCAN_BYTES):
        some = doubtful[part]
        found.distances[some], found.indices[some] = _scanned(points, centre, rows[some], k, tie, own)
    return found


def _centre(points: Points) -> Floats:
    """The mean of the typical points of a sample: a few massive ones must not move it far from the rest."""
    sample = points[:: -(-len(points) // _SAMPLE)].astype(np.float64)
    away = np.linalg.norm(sample - np.median(sample, axis=0), axis=1)
    centre: Floats = sample[away <= 4 * np.median(away)].mean(axis=0)
    return centre


def _centred(points: Points, centre: Floats) -> NDArray[np.float32]:
    """Points minus the centre: massive dimensions left in would take the digits of all others in float32."""
    if points.dtype == np.float32:
        return np.subtract(points, centre.astype(np.float32))
    centred = np.empty(points.shape, np.float32)
    return np.subtract(points, centre, out=centred, casting="same_kind")


def _possible(
    estimates: NDArray[np.float32], columns: Ints, centred: NDArray[np.float32], rows: Ints, k: int, tie: float
) -> NDArray[np.bool]:
    """Which candidates (m, width) of rows may be among the k nearest, given how far FAISS's |x|^2 + |y|^2 - 2 x.y errs.

    Inner products of length d in any order of summation err by at most gamma_d |x| |y|
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); + 16 covers the norms, the centring
    and the final additions. A y farther than |x| + reach from the centre cannot be a neighbour.
    """
    d = centred.shape[1]
    gamma, least = _gamma(d + 16, np.float32), d * float(np.finfo(np.float32).tiny)
    norms = np.sqrt(np.vecdot(centred, centred)).astype(np.float64) * (1 + gamma)
    own, first = norms[rows], norms[columns[:, : k + 1]].max(axis=1)
    reach = np.sqrt(estimates[:, k] + gamma * (own + first) ** 2 + least) + 2 * tie
    error = gamma * (own + np.minimum(norms.max(), own + reach)) ** 2 + least
    possible: NDArray[np.bool] = estimates - error[:, None] <= reach[:, None] ** 2
    return possible


def _gamma(terms: int, kind: type[np.float32] | type[np.float64]) -> float:
    """gamma_n = n u / (1 - n u), the relative error of n rounded operations."""
    share = terms * float(np.finfo(kind).eps) / 2
    return share / (1 - share)


def _settled(points: Points, rows: Ints, row: Ints, column: Ints, k: int, tie: float) -> tuple[Floats, Ints]:
    """Distances and indices (len(rows), k) from all pairs of a rows[row], ascending, with a possible neighbour."""
    counts = np.bincount(row, minlength=len(rows))
    filled = np.arange(counts.max(initial=k)) < counts[:, None]
    distances = np.full(filled.shape, np.inf)
    columns = np.full(filled.shape, len(points))
    distances[filled] = _distances(points, rows[row], column)
    columns[filled] = column
    distances, columns = _ordered(distances, columns, tie)
    return distances[:, :k], columns[:, :k]


def _distances(points: Points, left: Ints, right: Ints) -> Floats:
    """Euclidean distances (pairs,) from float64 differences; a pair met from both sides is computed once."""
    n, d = points.shape
    pairs, where = np.unique(np.minimum(left, right) * n + np.maximum(left, right), return_inverse=True)
    left, right = np.divmod(pairs, n)
    squares = np.empty(len(pairs))
    for part in _blocks(len(pairs), d * 8, _PAIRS_BYTES):
        difference = points[left[part]].astype(np.float64)
        difference -= points[right[part]]
        squares[part] = np.vecdot(difference, difference)
    distances: Floats = np.sqrt(squares)[where]
    return distances


def _blocks(n: int, row_bytes: int, block_bytes: int) -> Iterator[slice]:
    """Consecutive slices of range(n) whose rows together take about block_bytes."""
    step = max(1, block_bytes // max(1, row_bytes))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _ordered(distances: Floats, columns: Ints, tie: float) -> tuple[Floats, Ints]:
    """Each row by distance, then index; distances no further apart than `tie` first made equal."""
    order = np.lexsort((columns, distances))
    distances, columns = np.take_along_axis(distances, order, 1), np.take_along_axis(columns, order, 1)
    if tie == 0:
        return distances, columns
    apart = distances > np.pad(distances[:, :-1], ((0, 0), (1, 0))) + tie
    return _ordered(np.maximum.accumulate(np.where(apart, distances, 0), axis=1), columns, 0)


def _scanned(points: Points, centre: Floats, rows: Ints, k: int, tie: float, groups: Ints) -> tuple[Floats, Ints]:
    """Distances and indices (len(rows), k) of neighbours of other groups, for rows that float32 leaves in doubt."""
    squares, error = _float64_squares(points, centre, rows)
    squares[groups[rows][:, None] == groups] = np.inf
    bound = np.partition(squares + error, k - 1, axis=1)[:, k - 1 : k]
    row, column = np.nonzero(squares - error <= (np.sqrt(bound) + 2 * tie) ** 2)
    return _settled(points, rows, row, column, k, tie)


def _float64_squares(points: Points, centre: Floats, rows: Ints) -> tuple[Floats, Floats]:
    """Squared distances (len(rows), n) by float64 products, and how far off each can be."""
    query = points[rows] - centre
    products = np.empty((len(rows), len(points)))
    norms = np.empty(len(points))
    for part in _blocks(len(points), points.shape[1] * 8, _SCAN_BYTES):
        block = points[part] - centre
        products[:, part] = query @ block.T
        norms[part] = np.vecdot(block, block)
    query_norms = np.vecdot(query, query)[:, None]
    squares = query_norms + norms - 2 * products
    error = (np.sqrt(query_norms) + np.sqrt(norms)) ** 2
    error *= 2 * _gamma(points.shape[1] + 16, np.float64)
    return squares, error


def _expand(found: Neighbors, group: Ints, rows: Ints, k: int) -> Neighbors:
    """Neighbours of rows from those of the distinct points; group (n,) says which of these each point equals.

    Among the k + 1 nearest of a point, itself included, are members of its own group and of the k nearest
    others only, and of each no more than its first k + 1.
    """
    members = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    distances = np.empty((len(found.points), k + 1))
    indices = np.empty((len(found.points), k + 1), np.int64)
    groups = np.column_stack([found.points, found.indices])
    away = np.column_stack([np.zeros(len(groups)), found.distances])
    for part in _blocks(len(groups), groups.shape[1] * (k + 1) * 8, _SCAN_BYTES):
        listed = groups[part].ravel()
        taken = np.minimum(sizes[listed], k + 1)
        place = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        row = np.repeat(np.repeat(np.arange(len(groups[part])), groups.shape[1]), taken)
        index = members[np.repeat(starts[listed], taken) + place]
        distance = np.repeat(away[part].ravel(), taken)
        order = np.lexsort((index, distance, row))
        nearest_of = np.searchsorted(row, np.arange(len(groups[part])))[:, None] + np.arange(k + 1)
        distances[part], indices[part] = distance[order][nearest_of], index[order][nearest_of]
    which = np.searchsorted(found.points, group[rows])
    return _without_self(Neighbors(distances[which], indices[which], rows))


def _without_self(found: Neighbors) -> Neighbors:
    """Each point's list without the point; its last entry goes where equal points of lower index fill the list."""
    n, width = found.indices.shape
    drop = found.indices == found.points[:, None]
    drop[~drop.any(axis=1), -1] = True
    return Neighbors(
        found.distances[~drop].reshape(n, width - 1), found.indices[~drop].reshape(n, width - 1), found.queries
    )
