"""The closest so far of each point, while pairs are met in any order."""

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.neighbors.neighbors import Floats, Ints
from actstore_analyze.neighbors.proof import Proof

__all__ = ["Closest"]

_MARGIN = 64  # that many are added to a list before it is cut again
Estimates = NDArray[np.float32]


class Closest:
    """The `width` closest of each of n points, itself the first, by estimates of squared distances.

    limit (n,): pairs with a smaller estimate are wanted. Others cannot be neighbours, or the list has `width` closer.
    products (n,): so too, of estimates from products.
    """

    def __init__(self, n: int, width: int, proof: Proof) -> None:
        self.width, self.proof = width, proof
        self.estimates = np.full((n, width + _MARGIN), np.inf, np.float32)
        self.columns = np.full(self.estimates.shape, -1, np.int32)
        self.estimates[:, 0], self.columns[:, 0] = 0, np.arange(n)
        self.filled = np.ones(n, np.int64)
        self.limit, self.products = np.full((2, n), np.inf, np.float32)

    def add(self, rows: Ints, columns: Ints, estimates: Estimates) -> None:
        """Pairs (m,) of rows, equal ones together, with columns; each pair once, (j, i) beside (i, j)."""
        while len(rows):
            starts = np.flatnonzero(np.diff(rows, prepend=-1))
            who, counts = rows[starts], np.diff(starts, append=len(rows))
            place = np.arange(len(rows)) + np.repeat(self.filled[who] - starts, counts)
            fits = place < self.estimates.shape[1]
            self.estimates[rows[fits], place[fits]] = estimates[fits]
            self.columns[rows[fits], place[fits]] = columns[fits]
            self.filled[who] = np.minimum(self.filled[who] + counts, self.estimates.shape[1])
            self._cut(who[self.filled[who] > self.width + _MARGIN // 2])
            rest = np.flatnonzero(~fits)
            rest = rest[estimates[rest] < self.limit[rows[rest]]]
            rows, columns, estimates = rows[rest], columns[rest], estimates[rest]

    def begin(self, rows: Ints, kth: Estimates) -> None:
        """Limits of rows (m,) of which k others, or themselves, are no farther than kth (m,), from products."""
        self._tighten(rows, self.proof.first(rows, kth))

    def _tighten(self, rows: Ints, proven: Floats) -> None:
        self.limit[rows] = np.minimum(self.limit[rows], _above(proven))
        self.products[rows] = np.minimum(self.products[rows], _above(self.proof.products(rows, self.limit[rows])))

    def _cut(self, rows: Ints) -> None:
        """Leaves the `width` closest of rows."""
        k, width = self.proof.k, self.width
        estimates = self.estimates[rows]
        order = np.argpartition(estimates, (k, width - 1), axis=1)[:, :width]
        estimates = np.take_along_axis(estimates, order, 1)
        self.estimates[rows, :width], self.estimates[rows, width:] = estimates, np.inf
        self.columns[rows, :width] = np.take_along_axis(self.columns[rows], order, 1)
        self.filled[rows] = width
        self.limit[rows] = np.minimum(self.limit[rows], estimates[:, -1])
        self._tighten(rows, self.proof.limit(rows, estimates[:, k]))

    def lists(self) -> tuple[Estimates, Ints]:
        """Estimates and indices (n, width), ascending; where there are fewer, infinity and -1."""
        order = np.argsort(self.estimates, axis=1)[:, : self.width]
        columns = np.take_along_axis(self.columns, order, 1).astype(np.int64)
        return np.take_along_axis(self.estimates, order, 1), columns


def _above(values: Floats) -> Estimates:
    """The next float32 above each, at least."""
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))
