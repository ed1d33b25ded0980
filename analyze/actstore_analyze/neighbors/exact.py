"""Distances that decide: float64 differences of pairs, and scans of all where float32 leaves a doubt."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np

from actstore_analyze.neighbors.neighbors import Floats, Ints
from actstore_analyze.neighbors.points import Points

__all__ = ["SCAN_BYTES", "blocks", "differences", "gamma", "ordered", "products", "scanned", "settled"]

_PAIRS_BYTES = 1 << 20  # differences of one block stay in the cache of a core, and threads seldom wait for each other
SCAN_BYTES = 1 << 26


def settled(points: Points, rows: Ints, row: Ints, column: Ints, k: int, tie: float) -> tuple[Floats, Ints]:
    """Distances and indices (len(rows), k) from all pairs of a rows[row], ascending, with a possible neighbour.

    Who is more than two ties farther than the k-th is none, whoever stands between: of those not all are given.
    """
    counts = np.bincount(row, minlength=len(rows))
    filled = np.arange(counts.max(initial=k)) < counts[:, None]
    distances = np.full(filled.shape, np.inf)
    columns = np.full(filled.shape, len(points))
    distances[filled] = _distances(points, rows[row], column)
    columns[filled] = column
    if tie:
        beyond = distances > np.partition(distances, k - 1, axis=1)[:, k - 1 : k] + 2 * tie
        distances[beyond], columns[beyond] = np.inf, len(points)
    distances, columns = ordered(distances, columns, tie)
    return distances[:, :k], columns[:, :k]


def _distances(points: Points, left: Ints, right: Ints) -> Floats:
    """Euclidean distances (pairs,) from float64 differences; a pair met from both sides is computed once."""
    n = len(points)
    pairs, where = np.unique(np.minimum(left, right) * n + np.maximum(left, right), return_inverse=True)
    left, right = np.divmod(pairs, n)
    distances: Floats = differences(points, left, points, right, faiss.omp_get_max_threads())[where]
    return distances


def differences(x: Points, left: Ints, y: Points, right: Ints, threads: int = 1) -> Floats:
    """Euclidean distances (pairs,) of x[left] and y[right]."""
    squares = np.empty(len(left))

    def decide(share: slice) -> None:
        own, other, found = left[share], right[share], squares[share]
        for part in blocks(len(found), x.shape[1] * 8, _PAIRS_BYTES):
            difference = x[own[part]].astype(np.float64)
            difference -= y[other[part]]
            found[part] = np.vecdot(difference, difference)

    if threads == 1:
        decide(slice(None))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decide, blocks(len(left), 1, -(-len(left) // threads))))
    return np.sqrt(squares)


def blocks(n: int, row_bytes: int, block_bytes: int) -> Iterator[slice]:
    """Consecutive slices of range(n) whose rows together take about block_bytes."""
    step = max(1, block_bytes // max(1, row_bytes))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def ordered(distances: Floats, columns: Ints, tie: float) -> tuple[Floats, Ints]:
    """Each row by distance, then index; distances no further apart than `tie` first made equal."""
    order = np.lexsort((columns, distances))
    distances, columns = np.take_along_axis(distances, order, 1), np.take_along_axis(columns, order, 1)
    if tie == 0:
        return distances, columns
    apart = distances > np.pad(distances[:, :-1], ((0, 0), (1, 0))) + tie
    return ordered(np.maximum.accumulate(np.where(apart, distances, 0), axis=1), columns, 0)


def scanned(points: Points, centre: Floats, rows: Ints, k: int, tie: float, groups: Ints) -> tuple[Floats, Ints]:
    """Distances and indices (len(rows), k) of neighbours of other groups, for rows that float32 leaves in doubt."""
    squares, error = products(points[rows], points, centre)
    squares[groups[rows][:, None] == groups] = np.inf
    bound = np.partition(squares + error, k - 1, axis=1)[:, k - 1 : k]
    row, column = np.nonzero(squares - error <= (np.sqrt(bound) + 2 * tie) ** 2)
    return settled(points, rows, row, column, k, tie)


def products(queries: Points, others: Points, centre: Floats) -> tuple[Floats, Floats]:
    """Squared distances (m, n) by float64 products, and how far off each can be."""
    query = queries - centre
    products = np.empty((len(query), len(others)))
    norms = np.empty(len(others))
    for part in blocks(len(others), others.shape[1] * 8, SCAN_BYTES):
        block = others[part] - centre
        products[:, part] = query @ block.T
        norms[part] = np.vecdot(block, block)
    query_norms = np.vecdot(query, query)[:, None]
    squares = query_norms + norms - 2 * products
    error = (np.sqrt(query_norms) + np.sqrt(norms)) ** 2
    error *= 2 * gamma(others.shape[1] + 16, np.float64)
    return squares, error


def gamma(terms: int, kind: type[np.float32] | type[np.float64]) -> float:
    """gamma_n = n u / (1 - n u), the relative error of n rounded operations."""
    share = terms * float(np.finfo(kind).eps) / 2
    return share / (1 - share)
