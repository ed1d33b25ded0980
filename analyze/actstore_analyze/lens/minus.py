"""Calls of `actstore lens --minus-store`: differences between two stores of what the logit lens reads."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from actstore.store import Store
from actstore_analyze.lens.study import LogitLens, Unit
from actstore_analyze.study.minus import Measured, Minus
from actstore_analyze.study.selection import Say

__all__ = ["LensMinus"]

RIGHT = "right"
METRICS = ("probability", RIGHT, "entropy", "divergence")


@dataclass(frozen=True, kw_only=True)
class LensMinus(Minus[LogitLens]):
    """The label's probability, how often it is the likeliest, entropy and divergence less those of another store."""

    measure: ClassVar[str] = "lens_minus"
    verb: ClassVar[str] = "lens"
    of_measure = LogitLens

    def units_of(self, store: Store, *, say: Say) -> list[Unit]:
        """The samples of roles and conditions, all at a time."""
        found: dict[tuple[str, str], list[pl.DataFrame]] = {}
        for unit in self.base.units(store, say=say):
            found.setdefault((unit.role, unit.condition), []).append(unit.rows)
        return [Unit(*where, pl.concat(rows)) for where, rows in found.items()]

    def where(self, unit: Unit) -> tuple[Hashable, ...]:
        """Its role and condition."""
        return unit.role, unit.condition

    def samples(self, unit: Unit) -> Sequence[str]:
        """The samples that it has."""
        names: list[str] = unit.rows["sample_id"].unique().to_list()
        return names

    def only(self, unit: Unit, samples: Sequence[str]) -> Unit:
        """The unit with these samples alone, in the order of their rows."""
        return unit._replace(rows=unit.rows.filter(pl.col("sample_id").is_in(samples)))

    def found(self, store: Store, unit: Unit) -> Iterator[Measured]:
        """Means over samples of each metric at each layer; of samples that have one."""
        rows = self.base.rows(store, unit)
        for (layer,), own in rows.group_by("layer", maintain_order=True):
            for metric in METRICS:
                known = own.drop_nulls(metric)
                if known.height:
                    yield Measured(
                        {"role": unit.role, "condition": unit.condition},
                        int(str(layer)),
                        metric,
                        float(known.select(pl.col(metric).mean()).item()),
                        known["sample_id"].to_list(),
                        each=known[metric].to_numpy(),
                        is_share=metric == RIGHT and bool(known[metric].is_in([0.0, 1.0]).all()),
                    )
