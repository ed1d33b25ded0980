"""What float32 leaves possible: how far squared distances from products err, and who may be a neighbour then."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.neighbors.exact import gamma
from actstore_analyze.neighbors.neighbors import Floats, Ints

__all__ = ["Proof"]


@dataclass(frozen=True, slots=True)
class Proof:
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
    def of(cls, centred: NDArray[np.float32], k: int, tie: float) -> "Proof":
        """That of points (n, d) around their centre."""
        d = centred.shape[1]
        norms = np.sqrt(np.vecdot(centred, centred)).astype(np.float64) * (1 + gamma(d + 16, np.float32))
        return cls(norms, d, k, tie)

    def limit(self, rows: Ints, kth: NDArray[np.float32]) -> Floats:
        """The largest estimate (m,) that a neighbour of a row can have: k others, or itself, are at most kth (m,) away.

        Who is that far from x is at most |x| and that way from the centre, and farther ones are no neighbours.
        """
        share, least = gamma(self.d + 16, np.float32), self.d * float(np.finfo(np.float32).tiny)
        own, most, root = self.norms[rows], self.norms.max(), np.sqrt(share)
        first = np.minimum(most, (own * (1 + root) + np.sqrt(kth + least)) / (1 - root))
        reach = np.sqrt(kth + share * (own + first) ** 2 + least) + 2 * self.tie
        limit: Floats = reach**2 + share * (own + np.minimum(most, own + reach)) ** 2 + least
        return limit
