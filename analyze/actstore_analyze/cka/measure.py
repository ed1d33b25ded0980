"""Linear centred kernel alignment (CKA), from sums over blocks of samples.

Kornblith, Norouzi, Lee and Hinton, Similarity of Neural Network Representations Revisited (ICML 2019); unbiased, with
the estimator of Song et al., Feature Selection via Dependence Maximization (JMLR 2012). Both need of n samples the
products of two Gram matrices alone, which add up over blocks of them: no d x d and no n x n matrix is held.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError

__all__ = ["COLUMNS", "Sums", "centred", "check", "linear_cka", "mean"]

Floats = NDArray[np.float64]
Vectors = NDArray[np.number]
Layers = Sequence[Vectors]  # of the same samples (rows, d), one for each layer
Block = tuple[Layers, Layers]  # of either side; once where both sides are the same

COLUMNS = 128  # samples that a block is set beside at a time: rows x COLUMNS products are held, of each layer
MOST_LEFT = 1e-12  # of the variance, where nothing but rounding is left of it


@dataclass(frozen=True)
class Sums:
    """What of samples i, j enters CKA, for L layers of x and M of y, both centred; those of parts add up.

    xy (L, M), xx (L, 1), yy (M,): sums over i and j of (x_i . x_j)(y_i . y_j), or of one side's squared;
    ab (L, M), aa (L, 1), bb (M,): over i of |x_i|^2 |y_i|^2, or of one side's squared; a (L, 1), b (M,): of |x_i|^2 and
    |y_i|^2. Any shapes do that go together as these.
    """

    xy: Floats
    xx: Floats
    yy: Floats
    ab: Floats
    aa: Floats
    bb: Floats
    a: Floats
    b: Floats

    @classmethod
    def of(cls, rows: Block, others: Iterable[Block] = ()) -> Self:
        """Of a block of samples with itself and with other blocks: pairs of blocks are given once, and count twice."""
        (x, y), a, b = rows, _norms(rows[0]), _norms(rows[1])
        xy, xx, yy = np.zeros((len(x), len(y))), np.zeros((len(x), 1)), np.zeros(len(y))
        within = ((1, (_some(x, at), _some(y, at))) for at in range(0, len(x[0]), COLUMNS))
        for times, (x_other, y_other) in chain(within, ((2, other) for other in others)):
            of_x = _grams(x, x_other)
            of_y = of_x if y is x else _grams(y, y_other)
            xy += times * (of_x @ of_y.T)
            xx += times * np.einsum("ij,ij->i", of_x, of_x)[:, None]
            yy += times * np.einsum("ij,ij->i", of_y, of_y)
        squares, sums = (a * a).sum(1, keepdims=True), a.sum(1, keepdims=True)
        return cls(xy, xx, yy, a @ b.T, squares, (b * b).sum(1), sums, b.sum(1))

    @property
    def varies(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether the vectors of either side differ, (L, 1) and (M,)."""
        return self.xx > MOST_LEFT * self.a**2, self.yy > MOST_LEFT * self.b**2

    def cka(self, n: int | NDArray[np.int64], *, unbiased: bool = False) -> Floats:
        """CKA (L, M) of n samples: 1 for the same up to rotation and scale; NaN where a side does not vary.

        Unbiased, it is 0 on average for independent sides however large d is, and can be below 0; it takes n > 3.
        """
        xy, xx, yy = self.xy, self.xx, self.yy
        if unbiased:
            xy = _unbiased(xy, self.ab, self.a, self.b, n)
            xx, yy = _unbiased(xx, self.aa, self.a, self.a, n), _unbiased(yy, self.bb, self.b, self.b, n)
        xx, yy = (np.where(own > MOST_LEFT * every**2, own, np.nan) for own, every in ((xx, self.a), (yy, self.b)))
        found = np.asarray(xy / np.sqrt(xx * yy))
        return np.where(np.abs(found - 1) < MOST_LEFT, 1, found)  # the same, but for rounding


def linear_cka(x: Vectors, y: Vectors, *, unbiased: bool = False) -> float:
    """Linear CKA [0, 1] of two representations x (n, d) and y (n, e) of the same n samples.

    |Y'X|^2 / (|X'X| |Y'Y|) of the centred vectors, Frobenius norms (Kornblith et al. 2019, eq. 4); unbiased: with the
    estimator of Song et al. 2012 for each of the three. NaN where all vectors of a side are the same.
    Raises ActstoreError unless x and y are matrices of as many rows, 2 or more (unbiased: 4).

    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> round(linear_cka(x, 3 * x[:, ::-1] + 1), 6)
    1.0
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ActstoreError(f"CKA compares vectors (n, d) of the same samples, not {x.shape} with {y.shape}")
    check(len(x), unbiased=unbiased)
    both = [centred(x, mean([x]))], [centred(y, mean([y]))]
    return float(Sums.of(both).cka(len(x), unbiased=unbiased)[0, 0])


def check(n: int, *, unbiased: bool) -> None:
    """Raise ActstoreError for too few samples."""
    fewest = 4 if unbiased else 2
    if n < fewest:
        raise ActstoreError(f"{'unbiased ' * unbiased}CKA needs {fewest} samples; these are {n}: select more rows")


def mean(parts: Iterable[Vectors]) -> Floats:
    """The mean (d,) of vectors (n, d) that come in parts; where all are the same it is that, without rounding."""
    first, total, n = np.zeros(()), np.zeros(()), 0
    for x in parts:
        first = first if n else np.asarray(x[0], np.float64)
        total = total + (x - first).sum(0, dtype=np.float64)
        n += len(x)
    return np.asarray(first + total / n)


def centred(x: Vectors, mean: Floats) -> NDArray[np.float32]:
    """The vectors less a mean (d,)."""
    return np.asarray(x - mean, np.float32)


def _some(x: Layers, start: int) -> Layers:
    """COLUMNS of the samples of each layer."""
    return [one[start : start + COLUMNS] for one in x]


def _grams(x: Layers, other: Layers) -> Floats:
    """The products (L, rows x columns) of vectors of two blocks, at each layer."""
    return np.stack([(one @ another.T).astype(np.float64).ravel() for one, another in zip(x, other, strict=True)])


def _norms(x: Layers) -> Floats:
    """Squared norms (L, rows)."""
    return np.stack([np.einsum("ij,ij->i", one, one, dtype=np.float64) for one in x])


def _unbiased(xy: Floats, ab: Floats, a: Floats, b: Floats, n: int | NDArray[np.int64]) -> Floats:
    """Song et al. 2012, eq. 5, times n (n - 3): the diagonals of the Gram matrices are left out.

    Of centred vectors each row of one sums to 0, so that without its diagonal it sums to -|x_i|^2.
    """
    return np.asarray(xy - n / (n - 2) * ab + a * b / ((n - 1) * (n - 2)))
