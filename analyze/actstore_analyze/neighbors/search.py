"""Search among distinct points: float32 proposes, an error bound proves, float64 differences decide."""

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.neighbors.exact import SCAN_BYTES, blocks, gamma, scanned, settled
from actstore_analyze.neighbors.neighbors import Ints, Neighbors
from actstore_analyze.neighbors.points import Points, centre_of, centred_at
from actstore_analyze.neighbors.proposals import proposed

__all__ = ["searched"]


def searched(points: Points, rows: Ints, k: int, tie: float) -> Neighbors:
    """Neighbours of rows among distinct points: candidates of float32 where provably enough, else a float64 scan."""
    n = len(points)
    found = Neighbors(np.empty((len(rows), k)), np.empty((len(rows), k), np.int64), rows)
    if k == 0:
        return found
    centre = centre_of(points)
    centred = centred_at(points, centre)
    width = min(n, k + 1 + max(32, k // 2))
    estimates, columns = proposed(centred, rows, width)
    possible = _possible(estimates, columns, centred, rows, k, tie)
    certain = np.flatnonzero(~possible[:, -1] | (width == n))
    row, place = np.nonzero(possible[certain] & (columns[certain] != rows[certain, None]))
    found.distances[certain], found.indices[certain] = settled(
        points, rows[certain], row, columns[certain[row], place], k, tie
    )
    doubtful, own = np.setdiff1d(np.arange(len(rows)), certain), np.arange(n)
    for part in blocks(len(doubtful), n * 8, SCAN_BYTES):
        some = doubtful[part]
        found.distances[some], found.indices[some] = scanned(points, centre, rows[some], k, tie, own)
    return found


def _possible(
    estimates: NDArray[np.float32], columns: Ints, centred: NDArray[np.float32], rows: Ints, k: int, tie: float
) -> NDArray[np.bool]:
    """Which candidates (m, width) of rows may be among the k nearest, given how far |x|^2 + |y|^2 - 2 x.y errs.

    Inner products of length d in any order of summation err by at most gamma_d |x| |y|
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); + 16 covers the norms, the centring
    and the final additions. A y farther than |x| + reach from the centre cannot be a neighbour.
    """
    d = centred.shape[1]
    share, least = gamma(d + 16, np.float32), d * float(np.finfo(np.float32).tiny)
    norms = np.sqrt(np.vecdot(centred, centred)).astype(np.float64) * (1 + share)
    own, first = norms[rows], norms[columns[:, : k + 1]].max(axis=1)
    reach = np.sqrt(estimates[:, k] + share * (own + first) ** 2 + least) + 2 * tie
    error = share * (own + np.minimum(norms.max(), own + reach)) ** 2 + least
    possible: NDArray[np.bool] = estimates - error[:, None] <= reach[:, None] ** 2
    return possible
