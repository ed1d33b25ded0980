"""Calls of `actstore gap --minus-store`: the difference of median cosines between two stores."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl

from actstore.errors import UndefinedError
from actstore.store import Store
from actstore_analyze.gap.measure import median_without, quartiles
from actstore_analyze.gap.study import Gap, Unit
from actstore_analyze.study.intervals import LeftOut
from actstore_analyze.study.minus import Measured, Minus

__all__ = ["GapMinus"]


@dataclass(frozen=True, kw_only=True)
class GapMinus(Minus[Gap]):
    """The median cosine less that of another store, by layer; a sample's text and image are left out together."""

    measure: ClassVar[str] = "gap_minus"
    verb: ClassVar[str] = "gap"
    of_measure = Gap

    def where(self, unit: Unit) -> tuple[Hashable, ...]:
        """Its condition and layer."""
        return unit.sides.condition, unit.layer

    def samples(self, unit: Unit) -> Sequence[str]:
        """The keys of its texts and images, without the ending that says the order of the prompt."""
        names: list[str] = pl.concat([unit.sides.text["key"], unit.sides.image["key"]]).unique().to_list()
        return names

    def only(self, unit: Unit, samples: Sequence[str]) -> Unit:
        """The unit with texts and images of these samples alone."""
        text, image = (side.filter(pl.col("key").is_in(samples)) for side in (unit.sides.text, unit.sides.image))
        paired = text["key"].equals(image["key"])
        return unit._replace(sides=replace(unit.sides, text=text, image=image, paired=paired))

    def found(self, store: Store, unit: Unit) -> Iterator[Measured]:
        """The median, and about what it is without each sample."""
        try:
            counts = self.base.counts(store, unit)
            median = quartiles(counts).median
        except UndefinedError:
            return
        shares = self.base.shares(store, unit, median)
        enough = min(unit.sides.text.height, unit.sides.image.height) > 2
        samples = sorted(self.samples(unit))
        place = {"condition": unit.sides.condition}
        yield Measured(
            place,
            unit.layer,
            "median",
            median,
            samples,
            left=LeftOut(median_without(counts, shares, median)) if enough else None,
        )
