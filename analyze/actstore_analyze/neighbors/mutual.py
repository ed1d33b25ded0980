"""Search among all points of themselves: each pair is met once, and bounds spare most of them the product."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from actstore_analyze.neighbors.closest import Closest
from actstore_analyze.neighbors.exact import blocks
from actstore_analyze.neighbors.neighbors import Floats, Ints
from actstore_analyze.neighbors.proof import OfDifferences, OfProducts, Proof
from actstore_analyze.neighbors.shadows import cells, shadows

__all__ = ["BLOCK", "mutual", "products"]

Vectors = NDArray[np.float32]
Pairs = tuple[Ints, Ints, Vectors]
BLOCK = 1024  # points: the products of two blocks stay in a cache
_CROWDED = 1 / 32  # of the pairs of two blocks: from there on one product of all is faster than a distance for each


def mutual(centred: Vectors, width: int, proof: OfProducts, directions: Floats | None) -> tuple[Vectors, Ints, Proof]:
    """Estimates and indices (n, width) of the closest of each of the points centred (n, d), as `proposed` says.

    directions (d, r), r <= d - 56, orthonormal: pairs whose shadows in these are too far apart for both are left out,
    and estimates of the others are from differences; None: every pair is multiplied, and that is its estimate.
    Cells of points meet the nearest first, so that later pairs have little to offer.
    How far shadows' distances err, by r + 5 operations and 66 u of their own rounding, is within what `proof` allows.
    """
    closest = Closest(len(centred), width, proof if directions is None else OfDifferences(proof))
    meeting = _Meeting(centred, directions, closest)
    count, threads = len(meeting.parts), faiss.omp_get_max_threads()
    alone = nullcontext() if threads == 1 else threadpool_limits(1, user_api="blas")
    with alone, ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        for step in range(count // 2 + 1):
            here = range(count if 2 * step < count else step)  # each two once, around the circle of blocks
            for met in (map if threads == 1 else pool.map)(partial(meeting.pairs, step), here):
                for pairs in met:
                    closest.add(*pairs)
    return *closest.lists(), closest.proof


class _Meeting:
    """Blocks of points, and which of their pairs are still wanted when two of them meet."""

    def __init__(self, centred: Vectors, directions: Floats | None, closest: Closest) -> None:
        self.centred, self.halves, self.closest = centred, np.vecdot(centred, centred) / 2, closest
        self.order, self.cast = np.arange(len(centred)), None
        count = -(-len(centred) // BLOCK)
        self.parts = [slice(at, None, count) for at in range(count)]  # points from everywhere, whatever their order
        if directions is not None:
            self.parts = [*blocks(len(centred), 1, BLOCK)]
            cast = shadows(centred, directions)
            self.order = cells(cast, BLOCK)
            self.cast = cast[self.order]
            self.cast_halves = np.vecdot(self.cast, self.cast) / 2

    def pairs(self, step: int, number: int) -> tuple[Pairs, Pairs]:
        """Those wanted of a block with the step-th after it: (i, j) and (j, i), equal rows together."""
        here, there = self.parts[number], self.parts[(number + step) % len(self.parts)]
        rows, columns = self.order[here], self.order[there]
        if self.cast is not None and step:
            i, j = self._near(products(self.cast, self.cast_halves, here, there), rows, columns)
            if len(i) < _CROWDED * len(rows) * len(columns):
                return self._both(rows, columns, i, j, self._apart(rows[i], columns[j]))
        chosen = (here, there) if self.cast is None else (rows, columns)
        met = products(self.centred, self.halves, *chosen)
        if step == 0:
            self._first(rows, met)
        i, j = self._near(met, rows, columns)
        if step == 0:
            i, j = i[i < j], j[i < j]
        estimates = np.maximum(-2 * met[i, j], 0) if self.cast is None else self._apart(rows[i], columns[j])
        return self._both(rows, columns, i, j, estimates)

    def _first(self, rows: Ints, products: Vectors) -> None:
        """First limits: of groups of the block's points the closest of each, of which enough are closer."""
        k, width = self.closest.proof.k, len(rows)
        size = max(1, width // (4 * (k + 1)))
        count = width // size
        if count > k:
            best = products[:, : count * size].reshape(width, size, count).max(axis=1)
            kth = -2 * np.partition(best, count - 1 - k, axis=1)[:, count - 1 - k]
            self.closest.begin(rows, np.maximum(kth, 0))

    def _near(self, products: Vectors, rows: Ints, columns: Ints) -> tuple[Ints, Ints]:
        """Where -estimate / 2 is above the limit of a row or of a column."""
        limit = self.closest.products
        near = products > limit[rows][:, None] / -2
        near |= products > limit[columns] / -2
        i, j = np.divmod(np.flatnonzero(near), len(columns))
        return i, j

    def _apart(self, left: Ints, right: Ints) -> Vectors:
        """Estimates (pairs,) from differences."""
        squares = np.empty(len(left), np.float32)
        at, of, to, into = (faiss.swig_ptr(array) for array in (self.centred, left, right, squares))
        faiss.pairwise_indexed_L2sqr(self.centred.shape[1], len(left), at, of, at, to, into)  # type: ignore[attr-defined]
        return squares

    def _both(self, rows: Ints, columns: Ints, i: Ints, j: Ints, estimates: Vectors) -> tuple[Pairs, Pairs]:
        """Pairs wanted by their row, and by their column, these in the order of columns."""
        limit = self.closest.limit
        one = np.flatnonzero(estimates < limit[rows[i]])
        other = np.flatnonzero(estimates < limit[columns[j]])
        other = other[np.argsort(j[other].astype(np.int16), kind="stable")]
        return (
            (rows[i[one]], columns[j[one]], estimates[one]),
            (columns[j[other]], rows[i[other]], estimates[other]),
        )


def products(vectors: Vectors, halves: Vectors, here: slice | Ints, there: slice | Ints) -> Vectors:
    """x.y - |x|^2 / 2 - |y|^2 / 2 (m, n): -1/2 of the estimates of squared distances."""
    made: Vectors = vectors[here] @ vectors[there].T
    made -= halves[here][:, None]
    made -= halves[there]
    return made
