"""What float32 leaves possible: how far estimates of squared distances err, and who may be a neighbour then."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.neighbors.exact import gamma
from actstore_analyze.neighbors.neighbors import Floats, Ints

__all__ = ["OfDifferences", "OfProducts", "Proof"]

Estimates = NDArray[np.float32]
_EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True)
class OfProducts:
    """Which estimates |x|^2 + |y|^2 - 2 x.y of squared distances, in float32, may be of one of the k nearest.

    norms (n,): at least those of the points around their centre; d: how many values each has; tie: distances that far
    apart are equal.
    Inner products of length d in any order of summation err by at most gamma_d |x| |y|
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); + 16 covers the norms, the centring
    and the final additions.
    """

    norms: Floats
    d: int
    k: int
    tie: float

    @classmethod
    def of(cls, centred: NDArray[np.float32], k: int, tie: float) -> "OfProducts":
        """That of points (n, d) around their centre."""
        d = centred.shape[1]
        norms = np.sqrt(np.vecdot(centred, centred)).astype(np.float64) * (1 + gamma(d + 16, np.float32))
        return cls(norms, d, k, tie)

    def limit(self, rows: Ints, kth: Estimates) -> Floats:
        """The largest estimate (m,) of a neighbour of a row: k others, or itself, are at most kth (m,) away."""
        return self.estimate(rows, self.farthest(rows, kth) + 2 * self.tie)

    def first(self, rows: Ints, kth: Estimates) -> Floats:
        """As `limit`, of kth (m,) that are estimates from products."""
        return self.limit(rows, kth)

    def products(self, rows: Ints, limit: Estimates) -> Floats:  # noqa: ARG002
        """The largest estimate from products (m,) of points whose own here is at most limit (m,)."""
        return limit.astype(np.float64)

    def farthest(self, rows: Ints, estimates: Estimates) -> Floats:
        """How far (m,) a point with an estimate (m,) can be from a row: at most |x| and that way from the centre."""
        own, root = self.norms[rows], np.sqrt(self.share)
        other = np.minimum(self.norms.max(), (own * (1 + root) + np.sqrt(estimates + self.least)) / (1 - root))
        farthest: Floats = np.sqrt(estimates + self.share * (own + other) ** 2 + self.least)
        return farthest

    def estimate(self, rows: Ints, reach: Floats) -> Floats:
        """The largest estimate (m,) of points within reach (m,) of a row."""
        own = self.norms[rows]
        largest: Floats = reach**2 + self.share * (own + np.minimum(self.norms.max(), own + reach)) ** 2 + self.least
        return largest

    @property
    def share(self) -> float:
        """How far an estimate errs at most, of (|x| + |y|)^2."""
        return gamma(self.d + 16, np.float32)

    @property
    def least(self) -> float:
        """What underflows."""
        return self.d * float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class OfDifferences:
    """As `OfProducts`, of estimates (x - y)^2, which tell near points apart however far these are from the centre.

    The sum of squared differences errs by at most gamma_{d + 3} of itself in any order of summation. Centring has
    rounded each point by u of its norm, and who is within D of x is at most |x| + D from the centre.
    """

    of_products: OfProducts

    @property
    def k(self) -> int:
        """See OfProducts."""
        return self.of_products.k

    def limit(self, rows: Ints, kth: Estimates) -> Floats:
        """See OfProducts."""
        return self._estimate(rows, self._farthest(rows, kth) + 2 * self.of_products.tie)

    def first(self, rows: Ints, kth: Estimates) -> Floats:
        """See OfProducts."""
        return self._estimate(rows, self.of_products.farthest(rows, kth) + 2 * self.of_products.tie)

    def products(self, rows: Ints, limit: Estimates) -> Floats:
        """See OfProducts."""
        return self.of_products.estimate(rows, self._farthest(rows, limit))

    def _farthest(self, rows: Ints, estimates: Estimates) -> Floats:
        between = np.sqrt((estimates + self.of_products.least) * (1 + 2 * self.of_products.share))
        farthest: Floats = (between + 2 * _EPS * self.of_products.norms[rows]) / (1 - _EPS)
        return farthest

    def _estimate(self, rows: Ints, reach: Floats) -> Floats:
        between = reach * (1 + _EPS) + 2 * _EPS * self.of_products.norms[rows]
        largest: Floats = between**2 * (1 + self.of_products.share) + self.of_products.least
        return largest


Proof = OfProducts | OfDifferences
