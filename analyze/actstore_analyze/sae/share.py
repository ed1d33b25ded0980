"""Shares: what some vectors of a group add to its sums, as arrays that other processes and the disk take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.sae.measure import Moments, Sums
from actstore_analyze.sae.parts import PARTS, Parts

__all__ = ["DRAWN", "Share"]

Floats = NDArray[np.float64]
DRAWN = "gaussian"
SUMMED = ("none", "rotated", DRAWN)  # what has sums
NUMBERS = ("n", "weight", "n_features", "scatter", "squared_error", "active", "cosine", "relative_error")
NOTHING = np.empty(0)


@dataclass(frozen=True)
class Share:
    """Sums (m, 10 + d), of each part of the samples under each control: the number of either, NUMBERS and the mean; and
    of the scatter matrix of all vectors the lower triangle, empty where none are to be drawn of it.
    """

    sums: Floats
    lower: Floats

    @classmethod
    def of(cls, parts: Mapping[str, Parts], lower: Floats = NOTHING) -> Self:
        """By the names of SUMMED."""
        rows = [
            np.concatenate([[SUMMED.index(name), part, *(getattr(one, number) for number in NUMBERS)], one.mean])
            for name, own in parts.items()
            for part, one in own.of.items()
        ]
        return cls(np.stack(rows), lower)

    @staticmethod
    def n_bytes(width: int, *, drawn: bool) -> int:
        """Of vectors of a width, at most; drawn: with the triangle."""
        n_rows = PARTS * (len(SUMMED) if drawn else 1)
        return 8 * n_rows * (2 + len(NUMBERS) + width) + 4 * width * (width + 1) * drawn

    @property
    def parts(self) -> dict[str, Parts]:
        """Sums by what they are of."""
        found: dict[str, dict[int, Sums]] = {}
        for row in self.sums:
            control, part, n, weight, n_features, *rest = row[: 2 + len(NUMBERS)].tolist()
            own = Sums(int(n), weight, int(n_features), row[2 + len(NUMBERS) :], *rest)
            found.setdefault(SUMMED[int(control)], {})[int(part)] = own
        return {name: Parts(own) for name, own in found.items()}

    @property
    def moments(self) -> Moments:
        """Of the vectors themselves."""
        whole = self.parts[SUMMED[0]].whole
        return Moments(whole.n, whole.weight, whole.mean, self.lower)

    def __add__(self, other: "Share") -> "Share":
        own, others = self.parts, other.parts
        both = {name: own[name] + others[name] for name in own if name in others}
        is_spread = len(self.lower) and len(other.lower)
        return Share.of({**own, **others, **both}, (self.moments + other.moments).lower if is_spread else NOTHING)
