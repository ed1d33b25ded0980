"""Calls of `actstore attention --minus-store`: differences of the text's attention to positions between two stores."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from actstore.store import Store
from actstore_analyze.attention.study import INTERNAL, CrossModal, Unit, masses, names
from actstore_analyze.study.intervals import LeftOut
from actstore_analyze.study.minus import Measured, Minus

__all__ = ["AttentionMinus"]


@dataclass(frozen=True, kw_only=True)
class AttentionMinus(Minus[CrossModal]):
    """Shares of attention less those of another store, by layer: of the positions that have a name, and of the rest."""

    measure: ClassVar[str] = "attention_minus"
    verb: ClassVar[str] = "attention"
    of_measure = CrossModal

    def where(self, unit: Unit) -> tuple[Hashable, ...]:
        """Its condition and layer."""
        return unit.condition, unit.layer

    def samples(self, unit: Unit) -> Sequence[str]:
        """The samples that it has."""
        found: list[str] = unit.spans["sample_id"].to_list()
        return found

    def only(self, unit: Unit, samples: Sequence[str]) -> Unit:
        """The unit with these samples alone."""
        return unit._replace(spans=unit.spans.filter(pl.col("sample_id").is_in(samples)))

    def found(self, store: Store, unit: Unit) -> Iterator[Measured]:
        """The share of each band, and what it is without each sample."""
        called, _ = names(unit, unit.spans["last"][0] - unit.spans["first"][0] + 1)
        band = np.array([name if name in self.base.names else INTERNAL for name in called])
        found = list(masses(store, unit))
        samples = [name for ids, _ in found for name in ids]
        mass_of = np.concatenate([mass for _, mass in found])[np.argsort(samples)]
        each = {str(name): mass_of[:, band == name].sum(axis=1, dtype=np.float64) for name in np.unique(band)}
        whole = np.sum(list(each.values()), axis=0)
        for name, mass in each.items():
            left = LeftOut((mass.sum() - mass) / (whole.sum() - whole)) if len(mass) > 1 else None
            share = float(mass.sum() / whole.sum())
            place = {"condition": unit.condition, "name": name}
            yield Measured(place, unit.layer, "share", share, sorted(samples), left=left)
