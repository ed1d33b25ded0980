"""95 % intervals: of shares, and of statistics of samples, which are what is independent; their positions are not."""

from collections.abc import Callable, Iterator, Sequence
from math import atanh, exp, isqrt, log, nan, sqrt, tanh
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

__all__ = [
    "BY_SAMPLE",
    "FEW",
    "FEW_HALVES",
    "HALVES",
    "JACKKNIFE",
    "Bounds",
    "LeftOut",
    "Z",
    "bootstrapped",
    "by_sample",
    "correlation",
    "difference",
    "halves",
    "jackknifed",
    "left_out",
    "normal",
    "of_halves",
    "of_mean",
    "once",
    "paired",
    "percentiles",
    "positive",
    "reach",
    "resampled",
    "share",
    "signs",
    "student",
    "wilson",
]

RESAMPLES, SUBSAMPLES, SEED = 1000, 50, 0
SIGNS, AT_ONCE = 400, 40
FEW = 20  # halves, of what takes long of each
Z = 1.959964
JACKKNIFE = (
    "Interval: 95 %, of the jackknife over samples, each left out, also among the neighbours of others, what comes of "
    "pairs counted once (Efron and Stein 1981); normal on the scale of logits."
)
BY_SAMPLE = "Interval: 95 %, over samples: the percentiles of 1,000 bootstrap draws with seed 0, or Wilson's."
_OF_HALVES = (
    "Interval: 95 %, of the delete-d jackknife (Shao and Wu 1989): the same of {} halves of the samples, drawn without "
    "replacement with seed 0, whose neighbours are among those found before{}."
)
HALVES = _OF_HALVES.format(SUBSAMPLES, "")
FEW_HALVES = _OF_HALVES.format(FEW, ", those that have as many clusters, where a quarter have; Student's t of so many")
Bounds = tuple[float, float]
Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], Floats]


def wilson(right: float, n: float, z: float = Z) -> Bounds:
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


def by_sample(shares: Floats, times: float = 1.0) -> Bounds:
    """Of the mean of samples' shares [0, 1] (n,), each of the sample's positions: samples are drawn, positions never.

    Wilson's where every share is 0 or 1, as with one position in a sample. times: how much larger the variance of the
    mean is than that of independent samples.

    >>> by_sample(np.array([1.0, 0.0, 1.0])) == wilson(2, 3)
    True
    """
    if np.isin(shares, (0, 1)).all():
        return wilson(float(shares.sum()) / times, len(shares) / times)
    mean = float(shares.mean())
    low, high = (mean + sqrt(times) * (end - mean) for end in of_mean(shares))
    return max(low, 0.0), min(high, 1.0)


def of_mean(values: Floats) -> Bounds:
    """Of the mean of samples' values (n,), by the bootstrap; the same in whatever order the samples come.

    >>> x = np.random.default_rng(0).random(50)
    >>> of_mean(x) == of_mean(x[::-1])
    True
    """
    ordered = np.sort(values)
    return bootstrapped(lambda drawn: ordered[drawn].mean(axis=1), ordered)


NO_PAIRS = np.zeros(1)


class LeftOut(NamedTuple):
    """What a statistic of n samples is without each of them, without (n,), and what their pairs do to it.

    pairs (SIGNS,): for each draw of `signs` the sum over pairs of samples of what the pair does beyond
    either sample alone, times both signs. The mean of its square is the sum of the squares of what pairs do, and sums
    of several places add up, as those of pairs would, of which there are too many to keep.
    """

    without: Floats
    pairs: Floats = NO_PAIRS

    def error(self, queried: NDArray[np.bool] | None = None) -> float:
        """The standard error by the jackknife, what comes of pairs counted once.

        queried (n,): the samples of which it is a statistic, where these are some; the others have their part as
        neighbours alone, and each kind varies about its own mean.
        """
        kinds = [self.without] if queried is None else [self.without[queried], self.without[~queried]]
        return sqrt(once(sum(left_out(one) ** 2 for one in kinds), float(np.square(self.pairs).mean())))

    def less(self, other: "LeftOut") -> "LeftOut":
        """Of the difference of two statistics of the same samples, in the same order."""
        return LeftOut(self.without - other.without, self.pairs - other.pairs)

    @classmethod
    def mean(cls, found: Sequence["LeftOut"]) -> "LeftOut":
        """Of the mean of several statistics of the same samples."""
        return cls(*(np.mean(one, axis=0) for one in zip(*found, strict=True)))


def signs(n: int) -> Iterator[NDArray[np.float32]]:
    """SIGNS draws of a sign for each of n samples, some at a time (n, AT_ONCE), the same for the same n."""
    rng = np.random.default_rng(SEED)
    for _ in range(0, SIGNS, AT_ONCE):
        yield rng.choice(np.array([-1, 1], np.float32), (n, AT_ONCE))


def once(variance: float, of_pairs: float) -> float:
    """A variance by the jackknife less the part that is of pairs, which it counts twice (Efron and Stein 1981, section
    4): at most half of it.
    """
    return max(variance - of_pairs, variance / 2)


def jackknifed(value: float, left: LeftOut, queried: NDArray[np.bool] | None = None) -> Bounds:
    """Of a share [0, 1] of n samples, where each has a part in what others count, as neighbours have: the interval of
    the jackknife, normal on the scale of logits; Wilson's at 0 and 1. queried: see `LeftOut.error`.

    Of a mean over samples that have no part in each other it is the usual interval of that mean:

    >>> x = np.repeat([0.0, 1.0], [40, 60])
    >>> [round(end, 3) for end in jackknifed(x.mean(), LeftOut((x.sum() - x) / 99))]
    [0.501, 0.692]
    >>> [round(end, 3) for end in wilson(60, 100)]
    [0.502, 0.691]
    """
    return share(value, left.error(queried), len(left.without) if queried is None else int(queried.sum()))


def left_out(without: Floats) -> float:
    """The standard error of a statistic by the jackknife, from its values without each of n samples (n,).

    That of two statistics' difference is from the differences of what is left without each sample.
    """
    n = len(without)
    return sqrt((n - 1) / n * float(np.square(without - without.mean()).sum()))


def halves(statistic: Callable[[NDArray[np.int64]], ArrayLike], n: int, draws: int = SUBSAMPLES) -> Floats:
    """A statistic, or several, of each of some halves (m,) of n samples, NaN where it has none.

    The halves are the same for the same n, and drawn without replacement: copies of a sample would be each other's
    neighbours.
    """
    rng = np.random.default_rng(SEED)
    return np.array([statistic(np.sort(rng.permutation(n)[: n // 2])) for _ in range(draws)], np.float64)


def reach(k: int) -> int:
    """How many neighbours of all samples are enough for k of a half, but for one sample in millions."""
    return 2 * k + 10 * isqrt(k) + 16


def of_halves(found: Floats, n: int, fewest: int = 0) -> float:
    """The standard error of a statistic of n samples, from those of halves; NaN unless as many of these, most without
    it, have one.

    The delete-d jackknife (Shao and Wu 1989): the spread over subsamples of m, times sqrt(m / (n - m)).

    >>> x = np.random.default_rng(0).normal(size=400)
    >>> bool(0.8 < of_halves(halves(lambda chosen: x[chosen].mean(), 400), 400) / (x.std() / 20) < 1.2)
    True
    """
    known, m = found[~np.isnan(found)], n // 2
    return sqrt(m / (n - m)) * float(known.std(ddof=1)) if len(known) >= (fewest or len(found) // 2 + 1) else nan


def student(found: Floats) -> float:
    """The quantile that stands for Z where the standard error is that of few halves, NaN those that have no statistic.

    >>> round(student(np.arange(20.0)), 3), round(student(np.arange(1e6)), 3)
    (2.093, 1.96)
    """
    return float(stdtrit(np.count_nonzero(~np.isnan(found)) - 1, 0.975))


def share(value: float, error: float, n: int, z: float = Z) -> Bounds:
    """Of a share [0, 1] with its standard error: normal on the scale of logits; at 0 and 1 Wilson's, of n, or as far
    as the error goes where that is further.

    >>> share(1.0, 0.0, 400) == wilson(400, 400), round(share(1.0, 0.01, 400)[0], 4)
    (True, 0.9804)
    """
    if value in (0.0, 1.0):
        low, high = wilson(round(value * n), n, z)
        return max(0.0, min(low, value - z * error)), min(1.0, max(high, value + z * error))
    centre, half = log(value / (1 - value)), z * error / (value * (1 - value))
    return _expit(centre - half), _expit(centre + half)


def _expit(x: float) -> float:
    return 1 / (1 + exp(-x)) if x > 0 else exp(x) / (1 + exp(x))


def positive(value: float, error: float, z: float = Z) -> Bounds:
    """Of a number above 0 with its standard error: normal on the scale of logarithms.

    >>> [round(end, 2) for end in positive(10.0, 1.0)]
    [8.22, 12.17]
    """
    factor = exp(z * error / value)
    return value / factor, value * factor


def correlation(value: float, error: float, z: float = Z) -> Bounds:
    """Of a number between -1 and 1 with its standard error: normal on the scale of Fisher's z; itself at the ends.

    >>> [round(end, 3) for end in correlation(0.9, 0.05)]
    [0.743, 0.963]
    """
    if abs(value) >= 1:
        return value, value
    centre, half = atanh(value), z * error / (1 - value**2)
    return tanh(centre - half), tanh(centre + half)


def normal(value: float, error: float) -> Bounds:
    """Of a number with its standard error."""
    return value - Z * error, value + Z * error


def difference(value: float, left: LeftOut) -> Bounds:
    """Of a difference of two shares of the same samples."""
    error = left.error()
    low, high = normal(value, error) if error else paired(np.zeros(len(left.without)))
    return max(low, -1.0), min(high, 1.0)


def paired(changes: Floats) -> Bounds:
    """Of the mean of n samples' changes of yes and no, -1, 0 or 1 (n,): Bonett and Price 2012, as if one more had
    changed either way.

    >>> [round(end, 3) for end in paired(np.array([1.0] * 10 + [0.0] * 90))], paired(np.zeros(40))[1] > 0
    ([0.034, 0.162], True)
    """
    n = len(changes) + 2
    mean = float(changes.sum()) / n
    low, high = normal(mean, sqrt(((float(np.square(changes).sum()) + 2) / n - mean**2) / n))
    return max(low, -1.0), min(high, 1.0)


def bootstrapped(statistic: Statistic, x: NDArray[Any]) -> Bounds:
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


def percentiles(drawn: Floats) -> Bounds:
    """The middle 95 % of draws."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
