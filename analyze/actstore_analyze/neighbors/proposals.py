"""Proposals in float32: the points that may be nearest, by the way that costs least."""

import faiss
import numpy as np
from numpy.typing import NDArray

from actstore_analyze.neighbors.mutual import BLOCK, mutual, products
from actstore_analyze.neighbors.neighbors import Floats, Ints
from actstore_analyze.neighbors.proof import OfProducts, Proof
from actstore_analyze.neighbors.shadows import leading, shadows

__all__ = ["proposed"]

Vectors = NDArray[np.float32]
_MANY, _WIDE = 10_000, 256  # points and values of each from which on what is saved is more than what it takes
_TRIED = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # directions
_ASKED, _SAMPLE = 128, 1024  # points of the probe, and points that they are held against
# What a pair costs beside its product, in products' values: a bound, and a distance of itself, in values and at all;
# and a point that products leave in doubt, of which a scan takes float64 products with all.
_BOUND, _APART, _ALONE, _SCAN = 70, 32, 7000, 7


def proposed(centred: Vectors, rows: Ints, width: int, proof: OfProducts) -> tuple[Vectors, Ints, Proof]:
    """Squared distances (m, width), ascending, and indices of the nearest of each of the rows, itself among them.

    centred (n, d): all points; rows (m,): those whose neighbours are asked for.
    Estimates in float32, from |x|^2 + |y|^2 - 2 x.y, of which proof is, or from differences; with the proof of theirs.
    Points left out are no neighbours by it, or farther than all `width` that are listed, to its error. Where fewer are
    left the distances are infinite, and the indices -1.
    """
    n, d = centred.shape
    if len(rows) == n and _is_worth(n, d, width):
        return mutual(centred, width, proof, _probed(centred, width, proof))
    estimates, columns = faiss.knn(centred if len(rows) == n else centred[rows], centred, width)
    return estimates, columns, proof


def _is_worth(n: int, d: int, width: int) -> bool:
    """Whether n points of d values are enough for `mutual`, and for every thread."""
    return n >= max(_MANY, 32 * width, 2 * BLOCK * faiss.omp_get_max_threads()) and d >= _WIDE


def _probed(centred: Vectors, width: int, proof: OfProducts) -> Floats | None:
    """As many leading directions (d, r) as make the search cheapest, told from a few points; None where none do."""
    n, d = centred.shape
    most = min(d // 2, n // 64, 1024)
    step = n // _SAMPLE
    rows = np.arange(1, n, max(step, n // _ASKED))
    some, these, others = np.concatenate([centred[rows], centred[::step]]), slice(0, len(rows)), slice(len(rows), None)
    directions = leading(centred[:: max(1, n // (4 * most))], most)
    halves = np.vecdot(centred, centred) / 2
    among = -2 * products(centred, halves, rows, slice(0, n))
    limit = proof.limit(rows, np.maximum(np.partition(among, proof.k, axis=1)[:, proof.k], 0))[:, None]
    doubtful = float(((among <= limit).sum(axis=1) >= width).mean())
    costs = {0: d * (1 + _SCAN * doubtful) + _BOUND}
    for r in (tried for tried in _TRIED if tried <= most):
        cast = shadows(some, directions[:, :r])
        left = float((-2 * products(cast, np.vecdot(cast, cast) / 2, these, others) <= limit).mean())
        costs[r] = r * (1 + 4 * d / n) + _BOUND + 1.5 * left * (_APART * d + _ALONE)
    best = min(costs, key=costs.__getitem__)
    return directions[:, :best] if best else None
