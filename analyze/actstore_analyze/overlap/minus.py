"""Calls of `actstore overlap --minus-store`: the difference of label overlaps between two stores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.overlap.measure import label_overlap_from, label_overlap_without
from actstore_analyze.overlap.study import Overlap
from actstore_analyze.study.intervals import LeftOut
from actstore_analyze.study.minus import Measured, Minus
from actstore_analyze.study.units import Unit

__all__ = ["OverlapMinus"]


@dataclass(frozen=True, kw_only=True)
class OverlapMinus(Minus[Overlap]):
    """Label overlap less that of another store, by role and layer: neighbours are among the samples that both have."""

    measure: ClassVar[str] = "overlap_minus"
    verb: ClassVar[str] = "overlap"
    of_measure = Overlap

    @classmethod
    def of(cls, store: Store, *, layers: Sequence[int] | None = None, **asked: Any) -> Self:
        """The call, checked in both stores."""
        given = [name for name in ("unique", "group", "queries") if asked.get(name)]
        given += ["weights class"] if asked.get("weights") == "class" else []
        if given:
            raise ActstoreError(f"--minus-store is of all samples alike; leave out --{given[0]}")
        return super().of(store, layers=layers, **asked)

    def found(self, store: Store, unit: Unit) -> Iterator[Measured]:
        """The overlap, the mean over positions, and what it is with each sample left out."""
        values, left = [], []
        for one in self.base.neighborhoods(store, unit):
            neighbors, _, _ = self.base.neighbors(one, unit)
            if neighbors is None:
                continue
            values.append(float(label_overlap_from(neighbors.first(self.base.k), one.labels).mean()))
            if self.base.of_interval(one):
                left.append(label_overlap_without(neighbors, one.labels, self.base.k))
        group = unit.group
        known = bool(values) and len(left) == len(values)
        yield Measured(
            {"role": group.role, "condition": group.condition},
            unit.layer,
            "overlap",
            float(np.mean(values)) if values else float("nan"),
            self.samples(unit),
            left=LeftOut.mean(left) if known else None,
        )
