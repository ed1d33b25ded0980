"""Search among distinct points: float32 proposes, an error bound proves, float64 differences decide."""

import numpy as np

from actstore_analyze.neighbors.exact import SCAN_BYTES, blocks, scanned, settled
from actstore_analyze.neighbors.neighbors import Ints, Neighbors
from actstore_analyze.neighbors.points import Points, centre_of, centred_at
from actstore_analyze.neighbors.proof import OfProducts
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
    estimates, columns, proof = proposed(centred, rows, width, OfProducts.of(centred, k, tie))
    possible = estimates <= proof.limit(rows, estimates[:, k])[:, None]
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
