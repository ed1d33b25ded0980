"""Calls of `actstore probe --minus-store`: the difference of linear probes' accuracies between two stores."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from actstore.store import Store
from actstore_analyze.probe.measure import FOLDED
from actstore_analyze.probe.study import Probe
from actstore_analyze.study.minus import Measured, Minus
from actstore_analyze.study.units import Unit

__all__ = ["ProbeMinus"]


@dataclass(frozen=True, kw_only=True)
class ProbeMinus(Minus[Probe]):
    """Accuracy less that of probes of another store, by role and layer: both of the samples that both have."""

    measure: ClassVar[str] = "probe_minus"
    verb: ClassVar[str] = "probe"
    of_measure = Probe

    def found(self, store: Store, unit: Unit) -> Iterator[Measured]:
        """The accuracy, and of each sample that was held out the share of positions that are right."""
        shares = self.base.shares(store, unit)
        yield Measured(
            {"role": unit.group.role, "condition": unit.group.condition},
            unit.layer,
            "accuracy",
            float(shares.select(pl.col("right").mean()).item()),
            shares["sample_id"].to_list(),
            each=shares["right"].to_numpy(),
            is_share=shares["right"].is_in([0.0, 1.0]).all(),
            times=FOLDED if self.base.split is None else 1.0,
        )
