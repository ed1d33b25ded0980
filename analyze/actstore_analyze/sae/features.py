"""Features of a sparse autoencoder that stand for an example: its strongest ones that are neither common nor dense."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.study.intervals import wilson

__all__ = ["Activity", "MatchRate", "match_rate", "top_features"]


@dataclass(frozen=True)
class MatchRate:
    """Share [0, 1] of n examples that matched, with its 95 % Wilson interval; NaN without examples."""

    rate: float
    low: float
    high: float
    matched: int
    n: int


def match_rate(matches: NDArray[np.bool_]) -> MatchRate:
    """The rate of matches (n,).

    >>> match_rate(np.array([True, False, True, True]))  # doctest: +ELLIPSIS
    MatchRate(rate=0.75, low=0.3006..., high=0.9544..., matched=3, n=4)
    """
    n, matched = len(matches), int(np.count_nonzero(matches))
    if not n:
        return MatchRate(float("nan"), float("nan"), float("nan"), 0, 0)
    return MatchRate(matched / n, *wilson(matched, n), matched, n)


def top_features(largest: NDArray[np.floating], allowed: NDArray[np.bool_], *, count: int = 3) -> list[list[int]]:
    """The `count` strongest allowed features of each example, strongest first; of equals the lowest number.

    largest (n, features): the largest activation of each feature over the tokens of an example; the first distinct
    features of all its (token, feature) activations in decreasing order are the features with the largest maxima.
    A feature that is nowhere active is never taken, so that an example may have fewer.

    >>> top_features(np.array([[0.0, 5.0, 2.0, 3.0], [0.0, 1.0, 0.0, 0.0]]), np.array([True, False, True, True]))
    [[3, 2], []]
    """
    usable = np.where(allowed, largest, 0)
    order = np.argsort(-usable, axis=1, kind="stable")
    return [
        list(islice((int(feature) for feature in features if row[feature] > 0), count))
        for row, features in zip(usable, order, strict=True)
    ]


class Activity:
    """Which features are active in which examples, and how strongly in the first `kept` of them; parts are added."""

    def __init__(self, examples: int, n_features: int, kept: int) -> None:
        self.largest = np.zeros((min(kept, examples), n_features), np.float32)
        self._bits = np.zeros((examples, -(-n_features // 8)), np.uint8)

    def add(self, examples: NDArray[np.int64], features: NDArray[np.floating]) -> None:
        """Features (n, n_features) of tokens, each of one of the examples (n,)."""
        order = np.argsort(examples, kind="stable")
        own, starts = np.unique(examples[order], return_index=True)
        strongest = np.maximum.reduceat(features[order], starts, axis=0)
        self._bits[own] |= np.packbits(strongest > 0, axis=1)
        early = own < len(self.largest)
        self.largest[own[early]] = np.maximum(self.largest[own[early]], strongest[early])

    @property
    def frequency(self) -> NDArray[np.float64]:
        """Share [0, 1] of the examples in which each feature (n_features,) is active on one token at least."""
        n_features = self.largest.shape[1]
        counts = np.zeros(n_features)
        for start in range(0, len(self._bits), 1024):
            counts += np.unpackbits(self._bits[start : start + 1024], axis=1, count=n_features).sum(axis=0)
        return counts / len(self._bits)
