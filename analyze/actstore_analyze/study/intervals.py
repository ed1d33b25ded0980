"""95 % intervals: of shares, and of statistics of samples, which are what is independent; their positions are not."""

from collections.abc import Callable
from math import exp, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrapped", "by_sample", "jackknifed", "percentiles", "resampled", "wilson"]

RESAMPLES, SEED = 1000, 0
Z = 1.959964
Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], Floats]


def wilson(right: int, n: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 % by default; sound for small n and for shares near 0 and 1.

    >>> [round(end, 4) for end in wilson(10, 10)], [round(end, 4) for end in wilson(45, 50)]
    ([0.7225, 1.0], [0.7864, 0.9565])
    >>> {end for n in range(1, 99) for end in (wilson(0, n)[0], wilson(n, n)[1])} == {0.0, 1.0}
    True
    """
    share = right / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Of none and of all the formula gives 0 and 1, which rounding misses.
    return max(0.0, centre - half) if right else 0.0, min(1.0, centre + half) if right < n else 1.0


def by_sample(shares: Floats) -> tuple[float, float]:
    """Of the mean of samples' shares [0, 1] (n,), each of the sample's positions: samples are drawn, positions never.

    Wilson's where every share is 0 or 1, as with one position in a sample.

    >>> by_sample(np.array([1.0, 0.0, 1.0])) == wilson(2, 3)
    True
    """
    if np.isin(shares, (0, 1)).all():
        return wilson(int(shares.sum()), len(shares))
    return bootstrapped(lambda drawn: shares[drawn].mean(axis=1), shares)


def jackknifed(share: float, without: Floats) -> tuple[float, float]:
    """Of a share [0, 1] of n samples, where each has a part in what others count, as neighbours have: from the shares
    without each of them (n,), the interval of the jackknife, normal on the scale of logits; Wilson's at 0 and 1.

    Of a mean over samples that have no part in each other it is the usual interval of that mean:

    >>> x = np.repeat([0.0, 1.0], [40, 60])
    >>> [round(end, 3) for end in jackknifed(x.mean(), (x.sum() - x) / 99)], [round(end, 3) for end in wilson(60, 100)]
    ([0.501, 0.692], [0.502, 0.691])
    """
    n = len(without)
    if share in (0.0, 1.0):
        return wilson(round(share * n), n)
    error = sqrt((n - 1) / n * float(np.square(without - without.mean()).sum()))
    centre, half = log(share / (1 - share)), Z * error / (share * (1 - share))
    return 1 / (1 + exp(half - centre)), 1 / (1 + exp(-half - centre))


def bootstrapped(statistic: Statistic, x: NDArray[Any]) -> tuple[float, float]:
    """Percentile interval of a statistic of samples (resamples, n), the samples drawn with replacement."""
    return percentiles(resampled(statistic, x, seed=SEED))


def resampled(statistic: Statistic, x: NDArray[Any], *, seed: int) -> Floats:
    """The statistic of each of RESAMPLES draws."""
    rng = np.random.default_rng(seed)
    step = max(1, 2**22 // len(x))
    return np.concatenate(
        [
            statistic(rng.integers(0, len(x), (min(step, RESAMPLES - start), len(x))))
            for start in range(0, RESAMPLES, step)
        ]
    )


def percentiles(drawn: Floats) -> tuple[float, float]:
    """The middle 95 % of draws."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
