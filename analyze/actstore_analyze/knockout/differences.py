"""How far each knockout is from the model as it is: differences over the same samples, with their intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore_analyze.neighbors import firsts, nearest
from actstore_analyze.overlap.measure import known_for_interval, label_overlap_from, label_overlap_without
from actstore_analyze.study.conditions import NONE
from actstore_analyze.study.differences import DIFFERENCE
from actstore_analyze.study.intervals import Bounds, LeftOut, difference, jackknifed
from actstore_analyze.study.units import constant

__all__ = ["PAIRED", "Left", "left", "of_overlaps"]

Floats = NDArray[np.float64]
PAIRED = (
    "Differences are from the model as it is, over the samples that ran under both, with their 95 % interval: of right "
    "and wrong Bonett and Price's (2012), of other means the bootstrap's over samples, of overlaps the jackknife's."
)
SCHEMA = {"condition": pl.String, "metric": pl.String} | dict.fromkeys(DIFFERENCE, pl.Float64)


class Left(NamedTuple):
    """The label overlap under a condition, of samples (n,), and what it is with each of them left out; None where that
    is not known, for want of neighbours. copies: vectors that are identical with others, at the position with most.
    """

    condition: str
    samples: Sequence[str]
    value: float
    left: LeftOut | None
    copies: int

    @property
    def interval(self) -> Bounds | tuple[None, None]:
        """Its 95 % interval."""
        return (None, None) if self.left is None else jackknifed(self.value, self.left)


def left(
    condition: str, samples: Sequence[str], given: Sequence[tuple[NDArray[np.floating], NDArray[np.int64]]], k: int
) -> Left:
    """Of vectors (n, d) and labels (n,) at each position, in the order of the samples; NaN where all are the same."""
    values, found, copies = [], [], 0
    order = np.argsort(np.argsort(samples)) if samples else None
    for x, y in given:
        if constant(x):
            values.append(float("nan"))
            continue
        copies = max(copies, len(x) - len(np.unique(firsts(x))))
        known = known_for_interval(len(x), k)
        near = nearest(x, max(k, known))
        values.append(float(label_overlap_from(near.first(k), y).mean()))
        found += [label_overlap_without(near, y, k, order)] if known else []
    defined = [value for value in values if value == value]
    whole = bool(defined) and len(found) == len(defined)
    return Left(
        condition,
        samples,
        float(np.mean(defined)) if defined else float("nan"),
        LeftOut.mean(found) if whole else None,
        copies,
    )


def of_overlaps(found: Sequence[Left]) -> pl.DataFrame:
    """SCHEMA, of label overlaps; of conditions of other samples than the model as it is, none."""
    plain = next((one for one in found if one.condition == NONE), None)
    rows = []
    for one in found:
        if plain is None or one is plain or one.left is None or plain.left is None:
            continue
        place = {name: i for i, name in enumerate(plain.samples)}
        if {*one.samples} == {*place}:
            order = [place[name] for name in one.samples]
            change = one.value - plain.value
            before = plain.left._replace(without=plain.left.without[order])
            rows.append((one.condition, "overlap", change, *difference(change, one.left.less(before))))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")
