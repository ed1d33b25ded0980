"""Linear centred kernel alignment (CKA), from sums over blocks of samples.

Kornblith, Norouzi, Lee and Hinton, Similarity of Neural Network Representations Revisited (ICML 2019); unbiased, with
the estimator of Song et al., Feature Selection via Dependence Maximization (JMLR 2012). Both, and both without any one
of the samples, need of n samples the row sums of products of two Gram matrices alone, which add up over blocks of them:
no d x d and no n x n matrix is held.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from math import sqrt
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.devices import HOST, Device
from actstore_analyze.study.intervals import Bounds, correlation, left_out, once

__all__ = ["COLUMNS", "Block", "Mean", "Sums", "bounds", "centred", "check", "fewest", "linear_cka"]

Floats = NDArray[np.float64]
Vectors = NDArray[np.number]
Layers = Sequence[Vectors]  # of the same samples (rows, d), one for each layer
Block = tuple[Layers, Layers]  # of either side; once where both sides are the same

COLUMNS = 128  # samples that a block is set beside at a time: rows x COLUMNS products are held, of each layer
MOST_LEFT = 1e-12  # of the variance, where nothing but rounding is left of it
NORMS = ("a", "b")
POWERS = ("x3y", "x2y2", "xy3", "x4", "y4")


@dataclass(frozen=True)
class Mean:
    """What the mean (d,) of vectors is made of: the first, the sum of what others are beyond it, and how many."""

    first: Floats
    beyond: Floats
    n: NDArray[np.int64]

    @classmethod
    def of(cls, x: Vectors) -> Self:
        """Of vectors (n, d)."""
        first = np.asarray(x[0], np.float64)
        return cls(first, (x - first).sum(0, dtype=np.float64), np.array(len(x)))

    def __add__(self, other: "Mean") -> "Mean":
        beyond = other.beyond + other.n * (other.first - self.first)
        return Mean(self.first, self.beyond + beyond, self.n + other.n)

    @property
    def value(self) -> Floats:
        """The mean: where all vectors are the same it is that, without rounding."""
        return np.asarray(self.first + self.beyond / self.n)


@dataclass(frozen=True)
class Sums:
    """What of n samples enters CKA, for L layers of x and M of y, both centred: of sample i sums over samples j.

    xy (n, L, M), xx (n, L, 1), yy (n, 1, M): of (x_i . x_j)(y_i . y_j), or of one side's squared;
    xy_norms, xx_norms, yy_norms: of (x_i . x_j)|y_j|^2 + |x_j|^2 (y_i . y_j), or of one side's;
    a (n, L, 1), b (n, 1, M): no sums, |x_i|^2 and |y_i|^2;
    x3y, x2y2, xy3 (L, M), x4 (L, 1), y4 (1, M): over i, too, of powers of the two products.
    """

    xy: Floats
    xx: Floats
    yy: Floats
    xy_norms: Floats
    xx_norms: Floats
    yy_norms: Floats
    a: Floats
    b: Floats
    x3y: Floats
    x2y2: Floats
    xy3: Floats
    x4: Floats
    y4: Floats

    @classmethod
    def of(
        cls, own: Block, others: Iterable[Block] = (), n_others: int = 0, *, inside: bool = True, device: Device = HOST
    ) -> Self:
        """Of some samples, then of so many others, which come in blocks: each pair of one of either, and, `inside`,
        all pairs of the first. device: where they are multiplied.
        """
        n, shape = len(own[0][0]), (len(own[0]), len(own[1]))
        sums = cls._zeros(n + n_others, *shape, device)
        sums._hold_norms(slice(0, n), own, device)
        own, at = _put(own, device), n
        for start in range(0, n if inside else 0, COLUMNS):
            some, rest = slice(start, min(start + COLUMNS, n)), slice(start + COLUMNS, n)
            sums._add(device, some, some, _some(own, some), _some(own, some))
            if rest.start < n:
                sums._add(device, rest, some, _some(own, rest), _some(own, some))
        for block in others:
            at = sums._add_block(device, own, block, at)
            del block  # before the next one is read
        return cls(*(device.get(getattr(sums, one.name)) for one in fields(cls)))

    @classmethod
    def together(cls, shape: tuple[int, int, int], pieces: Iterable[tuple[NDArray[np.int64], "Sums"]]) -> Self:
        """Of all n samples, from pieces that have each pair once, added in their order: with each which samples (k,)
        those of its own are; shape: (n, L, M).
        """
        sums = cls._zeros(*shape, HOST)
        for at, own in pieces:
            for name in (one.name for one in fields(cls)):
                total, some = getattr(sums, name), getattr(own, name)
                if name in POWERS:
                    total += some
                else:
                    total[at] = some if name in NORMS else total[at] + some
        return sums

    @classmethod
    def _zeros(cls, n: int, n_x: int, n_y: int, device: Device) -> Self:
        both, own, other = (n, n_x, n_y), (n, n_x, 1), (n, 1, n_y)
        shapes = (both, own, other, both, own, other, own, other, *[both[1:]] * 3, own[1:], other[1:])
        return cls(*(device.put(np.zeros(one)) for one in shapes))

    def _hold_norms(self, at: slice, block: Block, device: Device) -> None:
        self.a[at, :, 0], self.b[at, 0] = (device.put(_norms(side)) for side in block)

    def _add_block(self, device: Device, own: Block, others: Block, at: int) -> int:
        """The first samples, on the device, set beside others, of which the first is at a place; where the next is."""
        for start in range(0, len(others[0][0]), COLUMNS):
            some = _some(others, slice(start, start + COLUMNS))
            columns = slice(at, at + len(some[0][0]))
            self._hold_norms(columns, some, device)
            self._add(device, slice(0, len(own[0][0])), columns, own, _put(some, device))
            at = columns.stop
        return at

    def _add(self, device: Device, rows: slice, columns: slice, own: Block, other: Block) -> None:
        """Samples on the device set beside others, each pair of which counts for both; or beside themselves."""
        of_x = _grams(own[0], other[0], device)
        of_y = of_x if own[1] is own[0] else _grams(own[1], other[1], device)
        self._count(device.xp, rows, of_x, of_y, columns)
        self._count_powers(device.xp, of_x, of_y, 1 if rows == columns else 2)
        if rows != columns:
            turned_x = _turned(of_x, device)
            self._count(device.xp, columns, turned_x, turned_x if of_y is of_x else _turned(of_y, device), rows)

    def _count(self, xp: Any, at: slice, of_x: Floats, of_y: Floats, columns: slice) -> None:
        """Products (L, rows, columns) and (M, rows, columns)."""
        a, b = self.a[columns, :, 0], self.b[columns, 0]
        self.xy[at] += xp.moveaxis(of_x, 1, 0) @ xp.moveaxis(of_y, 0, 2)
        self.xx[at, :, 0] += xp.einsum("lij,lij->il", of_x, of_x)
        self.yy[at, 0] += xp.einsum("mij,mij->im", of_y, of_y)
        self.xy_norms[at] += xp.moveaxis(of_x @ b, 1, 0) + xp.moveaxis(of_y @ a, 0, 2)
        self.xx_norms[at, :, 0] += 2 * xp.einsum("lij,jl->il", of_x, a)
        self.yy_norms[at, 0] += 2 * xp.einsum("mij,jm->im", of_y, b)

    def _count_powers(self, xp: Any, of_x: Floats, of_y: Floats, times: int) -> None:
        x, y = (one.reshape(len(one), -1) for one in (of_x, of_y))
        x2, y2 = x**2, y**2
        self.x2y2[:] += times * (x2 @ y2.T)
        self.x3y[:] += times * ((x2 * x) @ y.T)
        self.xy3[:] += times * (x @ (y2 * y).T)
        self.x4[:, 0] += times * xp.einsum("ij,ij->i", x2, x2)
        self.y4[0] += times * xp.einsum("ij,ij->i", y2, y2)

    @property
    def varies(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether the vectors of either side differ, (L, 1) and (1, M)."""
        return self.xx.sum(0) > MOST_LEFT * self.a.sum(0) ** 2, self.yy.sum(0) > MOST_LEFT * self.b.sum(0) ** 2

    def cka(self, *, unbiased: bool = False) -> Floats:
        """CKA (L, M): 1 for the same up to rotation and scale; NaN where a side does not vary.

        Unbiased, it is 0 on average for independent sides however large d is, and can be below 0; it takes n > 3.
        """
        return _cka(*self._alike(unbiased=unbiased))

    def without(self, *, unbiased: bool = False) -> Floats:
        """CKA (n, L, M) of the others, without each sample: exactly that, centred anew; of n > 4, where unbiased."""
        a, b, n = self.a, self.b, len(self.a)
        pairs = [
            _without(self.xy, self.xy_norms, a, b),
            _without(self.xx, self.xx_norms, a, a),
            _without(self.yy, self.yy_norms, b, b),
        ]
        own = n / (n - 1)
        return _cka(*_alike(pairs, a.sum(0) - own * a, b.sum(0) - own * b, n - 1, unbiased=unbiased))

    def of_pairs(self, *, unbiased: bool = False) -> Floats:
        """The part (L, M) of the variance of CKA that is of pairs of samples, beyond what either does to it alone.

        CKA is linear in h_ij, what the products of the pair i, j do to it; of those what is left without the means of
        rows and columns, off the diagonal, is the pair's own.
        """
        a, b, n = self.a, self.b, len(self.a)
        xy, xx, yy = self._alike(unbiased=unbiased)
        by_xy, by_xx, by_yy = 1 / np.sqrt(xx * yy), -xy / (2 * xx * np.sqrt(xx * yy)), -xy / (2 * yy * np.sqrt(xx * yy))
        sums = {(3, 1): self.x3y, (2, 2): self.x2y2, (1, 3): self.xy3, (4, 0): self.x4, (0, 4): self.y4}
        off = {powers: of - (a ** powers[0] * b ** powers[1]).sum(0) for powers, of in sums.items()}
        squares = by_xx**2 * off[4, 0] + by_yy**2 * off[0, 4] + (by_xy**2 + 2 * by_xx * by_yy) * off[2, 2]
        squares += 2 * by_xy * (by_xx * off[3, 1] + by_yy * off[1, 3])
        rows = (by_xy * (self.xy - a * b) + by_xx * (self.xx - a * a) + by_yy * (self.yy - b * b)) / (n - 2)
        total, mean = rows.sum(0), rows.sum(0) / (n - 1)
        means = 2 * (n - 2) * (rows**2).sum(0) + n * (n - 1) * mean**2 + 2 * total**2 - 4 * (n - 1) * mean * total
        return np.asarray(2 * np.maximum(squares - means, 0))

    def _alike(self, *, unbiased: bool) -> tuple[Floats, Floats, Floats]:
        a, b = self.a, self.b
        pairs = [(xy.sum(0), (one * other).sum(0)) for xy, one, other in
                 ((self.xy, a, b), (self.xx, a, a), (self.yy, b, b))]  # fmt: skip
        return _alike(pairs, a.sum(0), b.sum(0), len(a), unbiased=unbiased)


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
    left, right = ([centred(side, Mean.of(side).value)] for side in (x, y))
    return float(Sums.of((left, right)).cka(unbiased=unbiased)[0, 0])


def bounds(value: float, without: Floats, of_pairs: float = 0.0, *, unbiased: bool = False) -> Bounds:
    """The 95 % interval of CKA, from what it is without each sample (n,): normal on the scale of Fisher's z.

    of_pairs: the part of the variance that is of pairs, which the jackknife counts twice (Efron and Stein 1981); the
    half of what it counts, at most. What is the same up to rotation and scale is 1 whatever the samples.

    >>> bounds(1.0, np.ones(9)), bounds(0.0, np.linspace(-0.01, 0.01, 9), unbiased=True)[0] < 0
    ((1.0, 1.0), True)
    """
    low, high = correlation(value, sqrt(once(left_out(without) ** 2, of_pairs)))
    return (low if unbiased else max(low, 0.0)), high


def check(n: int, *, unbiased: bool) -> None:
    """Raise ActstoreError for too few samples."""
    if n < fewest(unbiased=unbiased):
        kind = f"{'unbiased ' * unbiased}CKA"
        raise ActstoreError(f"{kind} needs {fewest(unbiased=unbiased)} samples; these are {n}: select more rows")


def fewest(*, unbiased: bool) -> int:
    """Samples that CKA needs."""
    return 4 if unbiased else 2


def centred(x: Vectors, mean: Floats) -> NDArray[np.float32]:
    """The vectors less a mean (d,)."""
    return np.asarray(x - mean, np.float32)


def _each(block: Block, made: Callable[[Vectors], Vectors]) -> Block:
    """What is made of each layer, once where both sides are the same."""
    x = [made(one) for one in block[0]]
    return x, x if block[1] is block[0] else [made(one) for one in block[1]]


def _some(block: Block, rows: slice) -> Block:
    """Some samples of a block."""
    return _each(block, lambda one: one[rows])


def _put(block: Block, device: Device) -> Block:
    """The block on a device."""
    return _each(block, device.put)


def _grams(x: Layers, other: Layers, device: Device) -> Floats:
    """The products (L, rows, columns) of vectors of two blocks, at each layer, on the device that these are on."""
    found: Floats = device.xp.stack([device.wide(one @ another.T) for one, another in zip(x, other, strict=True)])
    return found


def _turned(products: Floats, device: Device) -> Floats:
    """Products (L, rows, columns) as (L, columns, rows)."""
    found: Floats = device.xp.stack([one.T for one in products])
    return found


def _norms(x: Layers) -> Floats:
    """Squared norms (rows, L)."""
    return np.stack([np.einsum("ij,ij->i", one, one, dtype=np.float64) for one in x], axis=1)


def _without(xy: Floats, xy_norms: Floats, a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The sums over i and j of products, and over i of both norms, without each sample.

    Without i all vectors are by x_i / (n - 1) further from their mean: x_j . x_k becomes, of those left, (x_j + x_i /
    (n - 1)) . (x_k + x_i / (n - 1)).
    """
    n, part = len(xy), 1 / (len(xy) - 1)
    own, both = 1 + part, a * b
    products = xy.sum(0) - 2 * own * xy + own**2 * both
    norms = both.sum(0) + 2 * part * xy_norms + part**2 * (4 * xy + a * b.sum(0) + b * a.sum(0))
    return products, norms + (n * part**4 - own**4) * both


def _alike(
    pairs: Sequence[tuple[Floats, Floats]], a: Floats, b: Floats, n: int, *, unbiased: bool
) -> tuple[Floats, Floats, Floats]:
    """How alike x is to y, x to x and y to y, of the sums of products and of both norms of each; a, b: sums of norms.

    NaN of a side that does not vary with itself.
    """
    norms = (a, b), (a, a), (b, b)
    xy, xx, yy = (
        _unbiased(*pair, *its, n) if unbiased else pair[0] for pair, its in zip(pairs, norms, strict=True)
    )  # fmt: skip
    xx, yy = (np.where(own > MOST_LEFT * every**2, own, np.nan) for own, every in ((xx, a), (yy, b)))
    return xy, xx, yy


def _cka(xy: Floats, xx: Floats, yy: Floats) -> Floats:
    found = np.asarray(xy / np.sqrt(xx * yy))
    return np.where(np.abs(found - 1) < MOST_LEFT, 1, found)  # the same, but for rounding


def _unbiased(xy: Floats, ab: Floats, a: Floats, b: Floats, n: int) -> Floats:
    """Song et al. 2012, eq. 5, times n (n - 3): the diagonals of the Gram matrices are left out.

    Of centred vectors each row of one sums to 0, so that without its diagonal it sums to -|x_i|^2.
    """
    return np.asarray(xy - n / (n - 2) * ab + a * b / ((n - 1) * (n - 2)))
