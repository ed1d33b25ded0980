"""How large vectors are, and which dimensions make them so."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Self

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.neighbors import parse

__all__ = ["Magnitudes", "magnitudes"]

Floats = NDArray[np.float64]
CACHE_BYTES = 1 << 18  # float64 rows of a block


@dataclass(frozen=True)
class Magnitudes:
    """Norms (n,) of vectors, and sums over them of |x| and x^2 in each dimension (d,); those of parts add up."""

    norms: Floats
    absolute: Floats
    squares: Floats

    @classmethod
    def of(cls, x: NDArray[np.number]) -> Self:
        """Of vectors x (n, d)."""
        step = max(1, CACHE_BYTES // (8 * max(1, x.shape[-1])))
        blocks = [x[start : start + step] for start in range(0, len(x), step)] or [x]
        try:
            each = [cls._of(parse(block).astype(np.float64)) for block in blocks]
        except ActstoreError:
            parse(x)  # says which of all rows it is
            raise
        norms = np.concatenate([one.norms for one in each])
        absolute, squares = ((one.absolute for one in each), (one.squares for one in each))
        return cls(norms, reduce(add, absolute), reduce(add, squares))

    @classmethod
    def _of(cls, points: Floats) -> Self:
        squares = points**2
        return cls(np.sqrt(squares.sum(axis=1)), np.abs(points).sum(axis=0), squares.sum(axis=0))

    def __add__(self, other: "Magnitudes") -> "Magnitudes":
        """Of both sets of vectors."""
        return Magnitudes(
            np.concatenate([self.norms, other.norms]), self.absolute + other.absolute, self.squares + other.squares
        )

    @property
    def shares(self) -> Floats:
        """Share (d,) of the sum of squared norms that each dimension makes; 0 for vectors that are all zero."""
        total = self.squares.sum()
        return self.squares / total if total > 0 else np.zeros_like(self.squares)

    def massive(self, times: float = 10) -> NDArray[np.int64]:
        """Dimensions whose mean magnitude is more than `times` that of the average dimension, the largest first.

        >>> magnitudes([np.array([[1.0, 1.0, 1.0, 1.0, 40.0], [1.0, 1.0, 1.0, 1.0, 60.0]])]).massive(4)
        array([4])
        """
        order = np.argsort(-self.absolute, kind="stable")
        largest: NDArray[np.int64] = order[self.absolute[order] > times * self.absolute.mean()]
        return largest


def magnitudes(parts: Iterable[NDArray[np.number]]) -> Magnitudes:
    """Of the vectors of all parts together, one part in memory at a time.

    Raises ActstoreError for no parts, and for NaN and infinity.

    >>> magnitudes([np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])]).norms.tolist()
    [5.0, 2.0]
    """
    each = map(Magnitudes.of, parts)
    first = next(each, None)
    if first is None:
        raise ActstoreError("no vectors to measure")
    return reduce(add, each, first)
