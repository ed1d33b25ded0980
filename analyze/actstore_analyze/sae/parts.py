"""Sums over parts of the samples, and the 95 % intervals that follow from what is left without each part."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import polars as pl

from actstore_analyze.sae.measure import Sums
from actstore_analyze.study.intervals import Bounds, correlation, left_out, positive, student

__all__ = ["GROUPED", "PARTS", "Parts", "part_of"]

PARTS = 50
GROUPED = (
    f"Interval: 95 %, of the jackknife over samples, dealt into {PARTS} parts that are left out in turn, with "
    "Student's t; normal on the scale of logarithms, of cosines on that of Fisher's z."
)


def part_of(rows: pl.DataFrame) -> pl.Series:
    """The part of each row: that of its sample, of which all vectors are in one."""
    return (rows["example"] % PARTS).cast(pl.Int64)


@dataclass(frozen=True)
class Parts:
    """The sums of each part; those of other vectors add up with `+`."""

    of: dict[int, Sums]

    def __add__(self, other: "Parts") -> "Parts":
        both = self.of.keys() & other.of.keys()
        return Parts({**self.of, **other.of, **{part: self.of[part] + other.of[part] for part in both}})

    @property
    def whole(self) -> Sums:
        """Those of all parts."""
        return reduce(add, self.of.values())

    def intervals(self, metrics: Sequence[str]) -> dict[str, Bounds | tuple[None, None]]:
        """Those of some averages of `Reconstruction`; NULL of one part, and where an average is 0 or not defined."""
        left = [reduce(add, (sums for other, sums in self.of.items() if other != part)).finish()
                for part in self.of] if len(self.of) > 1 else []  # fmt: skip
        whole = self.whole.finish()
        return {name: _ends(name, getattr(whole, name), [getattr(one, name) for one in left]) for name in metrics}


def _ends(name: str, value: float, left: Sequence[float]) -> Bounds | tuple[None, None]:
    without = np.array(left)
    if not len(without) or value == 0 or np.isnan([value, *without]).any():
        return None, None
    bounds = correlation if name == "cosine" else positive
    return bounds(value, left_out(without), student(without))
