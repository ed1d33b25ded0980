"""Differences between two stores: a measure of one less the same of the other, over the samples that both have."""

import shlex
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore.store import open as open_store
from actstore_analyze.devices import CPU
from actstore_analyze.study.another import another
from actstore_analyze.study.intervals import Bounds, LeftOut, normal, of_mean, paired
from actstore_analyze.study.selection import Group, Say, known_layers
from actstore_analyze.study.study import PerLayer, WithInterval, depth
from actstore_analyze.study.units import Unit

__all__ = ["Measured", "Minus", "of_group"]

Base = TypeVar("Base", bound=PerLayer)
Floats = NDArray[np.float64]
OWN = ("minus_store", "minus_state")
FOUND = {
    "metric": pl.String,
    **dict.fromkeys(("value", "minus", "difference", "difference_low", "difference_high"), pl.Float64),
    "minus_store": pl.String,
    "n": pl.Int64,
}


class Measured(NamedTuple):
    """A value of some samples in one store, at a place of the table.

    each (n,): samples' own values, whose mean it is; or left: what it is with each of them left out. Neither where that
    is not known. times: how much larger the variance is than that of independent samples; is_share: whether each
    is right or wrong, at one position.
    """

    place: dict[str, str]
    layer: int
    metric: str
    value: float
    samples: Sequence[str]
    each: Floats | None = None
    left: LeftOut | None = None
    times: float = 1.0
    is_share: bool = False


class Pair(NamedTuple):
    """The same unit in both stores, of the same samples in the same order."""

    own: Any
    other: Any


@dataclass(frozen=True, kw_only=True)
class Minus(PerLayer, Generic[Base]):
    """What a measure gives here less what it gives in another store, by sample.

    base: the call of the measure; minus_state: the contents of the other store, which the result depends on.
    """

    base: Base
    minus_store: str
    minus_state: str

    of_measure: ClassVar[type[PerLayer]]

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        layers: Sequence[int] | None = None,
        minus_store: Path | str = "",
        jobs: int = 1,
        executor: str | None = None,
        **asked: Any,
    ) -> Self:
        """The call, checked in both stores; without layers those that both have."""
        other = open_store(minus_store)
        common = [layer for layer in store.layers if layer in other.layers] if layers is None else list(layers)
        known_layers(other, common)
        base = cls.of_measure.of(store, layers=common, **asked)
        roles = {"roles": base.parameters["roles"]} if "roles" in base.parameters else {}
        cls.of_measure.of(other, layers=common, **asked | roles)
        own = {"minus_store": str(minus_store), "minus_state": other.state}
        return cls._of(base, {**own, "jobs": jobs, "executor": executor})

    @classmethod
    def again(cls, parameters: dict[str, Any]) -> Self:
        """The call that a saved result answers."""
        own = {name: parameters[name] for name in OWN if name in parameters}
        if len(own) < len(OWN):
            raise ActstoreError(f"parameters of another version (no {', '.join(sorted({*OWN} - {*own}))})")
        rest = {name: value for name, value in parameters.items() if name not in OWN}
        return cls._of(cls.of_measure.again(rest), own)

    @classmethod
    def _of(cls, base: PerLayer, own: dict[str, Any]) -> Self:
        return cls(base=cast(Base, base), layers=base.layers, sql=base.sql, **own)

    @property
    def device(self) -> str:
        """Where the measure's products are computed."""
        return str(getattr(self.base, "device", CPU))

    def computed_on(self, device: str) -> Self:
        """See Study."""
        return replace(self, base=self.base.computed_on(device))

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the measure, and the other store."""
        return {**self.base.parameters, "minus_store": self.minus_store, "minus_state": self.minus_state}

    @property
    def there(self) -> Store:
        """The other store."""
        return another(self.minus_store, self.minus_state)

    @property
    def named(self) -> str:
        """The other store, as tables and figures name it."""
        return Path(self.minus_store).name

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        return f"{self.base.title}, less that of {self.named}"

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return f"The difference from {self.named}, over the samples of both ({self.chosen}). 0: the same."

    @property
    def methods(self) -> str:
        """How it was computed."""
        paired = (
            "Interval of a difference: 95 %, over samples, paired: of right and wrong Bonett and Price's (2012), of "
            "other means the bootstrap's, else the jackknife's. "
        )
        return (
            f"Differences are from the same of {self.minus_store}, over the samples, matched by sample_id, that both "
            f"stores have. {paired if self.has_interval else ''}{self.base.methods}"
        )

    @property
    def has_interval(self) -> bool:
        """Whether they are asked for."""
        return isinstance(self.base, WithInterval) and self.base.has_interval

    def command(self, store: Path | str) -> str:
        """The command line of the call."""
        return f"{self.base.command(store)} {shlex.join(['--minus-store', self.minus_store])}"

    def units(self, store: Store, *, say: Say) -> list[Pair]:
        """Those of the measure that both stores have, with the samples that both have."""
        own, other = ({self.where(unit): unit for unit in self.units_of(one, say=say)} for one in (store, self.there))
        pairs = []
        for where, unit in own.items():
            if where not in other:
                say(f"{' '.join(map(str, where))}: not in {self.minus_store}; left out")
                continue
            ours, theirs = (set(self.samples(one)) for one in (unit, other[where]))
            if not ours & theirs:
                first = f"the first is '{min(ours)}' here and '{min(theirs)}' there"
                raise ActstoreError(f"no sample in common with {self.minus_store}; {first}")
            if left := ours - theirs:
                say(f"{' '.join(map(str, where))}: {len(left)} of {len(ours)} samples are not in both; left out")
            common = sorted(ours & theirs)
            pairs.append(Pair(self.only(unit, common), self.only(other[where], common)))
        if not pairs:
            raise ActstoreError(f"nothing to compare: {self.minus_store} has none of these roles and conditions")
        return pairs

    def rows(self, store: Store, unit: Pair) -> pl.DataFrame:
        """The place, layer, depth, metric, value, minus, difference, difference_low, difference_high, minus_store, n.

        difference: value less minus, which is that of the other store; NULL ends where there is no interval.
        """
        there = {(*one.place.values(), one.layer, one.metric): one for one in self.found(self.there, unit.other)}
        rows, places = [], []
        for one in self.found(store, unit.own):
            other = there.get((*one.place.values(), one.layer, one.metric))
            if other is None:
                continue
            own, other = _matched(one, other)
            change = own.value - other.value
            ends = _ends(change, own, other) if self.has_interval else (None, None)
            places.append({**one.place, "layer": one.layer, "depth": depth(store, one.layer)})
            rows.append((one.metric, own.value, other.value, change, *ends, self.named, len(own.samples)))
        place = pl.DataFrame(places, schema_overrides={"layer": pl.Int32})
        return place.hstack(pl.DataFrame(rows, schema=FOUND, orient="row"))

    @abstractmethod
    def found(self, store: Store, unit: Any) -> Iterator[Measured]:
        """What is measured of a unit in one of the stores."""

    def units_of(self, store: Store, *, say: Say) -> list[Any]:
        """Those of the measure, in one of the stores."""
        return self.base.units(store, say=say)

    def where(self, unit: Any) -> tuple[Hashable, ...]:
        """What tells the unit from others, in either store."""
        return unit.group.role, unit.group.condition, unit.layer

    def samples(self, unit: Any) -> Sequence[str]:
        """The samples that a unit has."""
        names: list[str] = unit.group.positions[0]["sample_id"].to_list()
        return names

    def only(self, unit: Any, samples: Sequence[str]) -> Any:
        """The unit with these samples alone, in this order."""
        return Unit(of_group(unit.group, samples), unit.layer)


def of_group(group: Group, samples: Sequence[str]) -> Group:
    """The group with some samples alone, in this order."""
    chosen = pl.DataFrame({"sample_id": samples}, schema={"sample_id": pl.String})
    positions = [
        chosen.join(rows, on="sample_id", maintain_order="left").select(rows.columns) for rows in group.positions
    ]
    return Group(group.role, group.condition, positions)


def _matched(own: Measured, other: Measured) -> tuple[Measured, Measured]:
    """Both with the samples that both have, in one order: of means, where a sample may have no value in one store."""
    if own.each is None or other.each is None or [*own.samples] == [*other.samples]:
        return own, other
    both = sorted({*own.samples} & {*other.samples})
    first, second = (dict(zip(one.samples, np.asarray(one.each).tolist(), strict=True)) for one in (own, other))
    values = [np.array([one[name] for name in both]) for one in (first, second)]
    return tuple(
        one._replace(samples=both, each=value, value=float(value.mean()) if both else float("nan"))
        for one, value in zip((own, other), values, strict=True)
    )  # type: ignore[return-value]


def _ends(change: float, own: Measured, other: Measured) -> Bounds | tuple[None, None]:
    if np.isnan(change) or len(own.samples) < 2:
        return None, None
    if own.each is not None and other.each is not None:
        changes = own.each - other.each
        low, high = paired(changes) if own.is_share and other.is_share else of_mean(changes)
    elif own.left is not None and other.left is not None:
        low, high = normal(change, own.left.less(other.left).error())
    else:
        return None, None
    wider = sqrt(max(own.times, other.times))
    return change + wider * (low - change), change + wider * (high - change)
