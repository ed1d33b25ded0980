"""Calls of `actstore overlap --with-...`: neighbours that two representations of the same samples have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.format.header import span
from actstore.store import Store
from actstore.store import open as open_store
from actstore_analyze.neighbors import Neighbors
from actstore_analyze.overlap.measure import data_chance_level, data_overlap_from
from actstore_analyze.study.counterparts import Compared, counterpart, matched
from actstore_analyze.study.intervals import HALVES, halves, of_halves, reach, share
from actstore_analyze.study.neighborhood import BySample, Neighborhood, OfNeighbors, sized
from actstore_analyze.study.points import Points
from actstore_analyze.study.selection import Say, choose, groups
from actstore_analyze.study.stored import are_many
from actstore_analyze.study.study import EVERYTHING, METRICS
from actstore_analyze.study.units import (
    PLACE,
    SPREAD,
    defined,
    described,
    enough,
    mean_and_error,
    said_where,
    sampled,
    why,
)
from actstore_analyze.study.units import Unit as Side

__all__ = ["DataOverlap"]

Floats = NDArray[np.float64]


class Unit(NamedTuple):
    """A role at a layer, and what it is compared with: the same samples in the same order."""

    own: Side
    other: Side


@dataclass(frozen=True, kw_only=True)
class DataOverlap(Compared, OfNeighbors):
    """Data overlap by role and layer with another role, layer, condition or store."""

    with_layer: int | None = None
    k: int = 30
    metric: str = "euclidean"
    positions: int | None = None
    interval: str = "subsamples"

    measure: ClassVar[str] = "data_overlap"
    verb: ClassVar[str] = "overlap"
    always: ClassVar[tuple[str, ...]] = ("k",)

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        roles: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        with_store: Path | str | None = None,
        with_role: str | None = None,
        with_layer: int | None = None,
        **asked: Any,
    ) -> Self:
        """The call with its roles and layers checked in both stores; without layers: those that both have."""
        other, whom = cls.with_whom(store, roles, with_store, with_role)
        if with_layer is None:
            layers = [layer for layer in store.layers if layer in other.layers] if layers is None else layers
        with_layer = None if with_layer is None else other.header.layer_of(with_layer)
        for layer in layers or () if with_layer is None else [with_layer]:
            other.header.layer_index(layer)
        return super().of(store, layers=layers, with_layer=with_layer, **whom, **asked)

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = [f"Data overlap with {self.partner}, k = {self.k}"]
        asked += [part for part in (self.metric,) if part != "euclidean"]
        asked += [self.preparation] if self.preparation else []
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def partner(self) -> str:
        """What the roles are compared with, in words."""
        return self.named(layer=self.with_layer) or "itself"

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            f"Data overlap of each role with {self.partner} at each layer ({self.chosen}): the share of nearest "
            "neighbours in common; 1 where both see the same neighbourhoods; dotted: chance."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            f"Data overlap with {self.partner} at k = {self.k}: for each sample, the share of its {self.k} nearest "
            "neighbours in one representation that are among those in the other, averaged over samples. Distance: "
            f"{METRICS[self.metric]}; neighbours are exact, ties go to the lower index. "
            f"{self.on_interval(HALVES)}{self.source} Rows: {self.sql}. "
            f"Chance is k / (samples that may be neighbours).{self.computed}"
        )

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """Roles and conditions, each with its counterpart, at every layer."""
        other = self.other(store)
        common = [layer for layer in store.layers if layer in other.layers]
        if self.with_layer is None and list(self.layers) == common:
            for one, another in ((store, other), (other, store)):
                if left := sorted({*one.layers} - {*common}):
                    say(
                        f"left out: layers {span(left)} of {one.path.name}, which {another.path.name} does not have; "
                        "--with-layer compares with one layer, whatever its number"
                    )
        found = []
        for group in groups(choose(store, self.sql, self.roles, None, group=self.group, say=say), self.roles, say=say):
            role, condition = self.with_role or group.role, self.with_condition or group.condition
            elsewhere = self.with_store or self.with_role or self.with_layer is not None
            if condition == group.condition and not elsewhere:
                continue  # itself
            pair = matched(group, counterpart(other, role, condition, say), say)
            enough(pair[0], self.k)
            pair = sampled(pair[0], self.positions, self.seed), sampled(pair[1], self.positions, self.seed)
            found += [
                Unit(
                    Side(pair[0], layer),
                    Side(pair[1], layer if self.with_layer is None else self.with_layer),
                )
                for layer in self.layers
            ]
        if not found:
            raise ActstoreError(f"nothing to compare: the query selects condition '{self.with_condition}' alone")
        return found

    def by_blocks(self, store: Store, unit: Any) -> bool:
        """See OfNeighbors; of a pair, whether one of both is."""
        if isinstance(unit, Side):
            return super().by_blocks(store, unit)
        width = store.header.d_model if self.with_store is None else _width(self.with_store, self.with_state)
        return super().by_blocks(store, unit.own) or are_many(unit.other.group.n, width)

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """role, condition, layer, depth, overlap, low, high, se, positions, chance, with_..., neighbors, metric, n, ...

        low, high: the 95 % interval, of halves of the samples; NULL with --unique or --group, and where halves have no
        k neighbours. se is over samples, where these have several positions or are drawn.
        overlap is NaN where it is not defined: all vectors of either are the same, or too few are unique in both.
        """
        others = [*self.points(self.other(store), unit.other)]
        repeated = others * len(unit.own.group.positions) if len(others) == 1 else others
        pairs = zip(self.points(store, unit.own), repeated, unit.own.group.positions, strict=True)
        found, reasons, by_sample = [], [], BySample(unit.own.group.n, drawn=self.queries is not None)
        of: list[Floats] = []
        for x, z, rows in pairs:
            one = self.neighborhood([x, z], rows)
            both, chance, reason = self._neighbors(one, z[one.kept].prepared(self), unit.own)
            shares = None if both is None else data_overlap_from(*(side.first(self.k) for side in both))
            if both is not None and self.has_interval:
                of.append(halves(partial(self._half, *both), len(one.x)))
            reasons.append(reason)
            found.append((float("nan") if shares is None else float(shares.mean()), chance, one.size))
            if shares is not None:
                by_sample.add(one.asked, shares)
        mean, _, counted = mean_and_error([value for value, _, _ in found])
        se = by_sample.error()
        error = of_halves(np.mean(of, axis=0), unit.own.group.n) if of else float("nan")
        n = min(unit.own.group.n, self.queries or unit.own.group.n)
        low, high = (None, None) if np.isnan(error) else share(mean, error, n)
        chance, _, _ = mean_and_error([level for _, level, _ in found])
        return described(store, unit.own, se, counted).select(
            *PLACE,
            pl.lit(mean).alias("overlap"),
            pl.lit(low, pl.Float64).alias("low"),
            pl.lit(high, pl.Float64).alias("high"),
            *SPREAD,
            pl.lit(chance).alias("chance"),
            pl.lit(unit.other.group.role).alias("with_role"),
            pl.lit(unit.other.group.condition).alias("with_condition"),
            pl.lit(unit.other.layer, dtype=pl.Int32).alias("with_layer"),
            pl.lit(self.k).alias("neighbors"),
            pl.lit(self.metric).alias("metric"),
            *sized(size for _, _, size in found),
            why(reasons),
        )

    def _neighbors(
        self, one: Neighborhood, z: Points, unit: Side
    ) -> tuple[tuple[Neighbors, Neighbors] | None, float, str | None]:
        """The neighbours of each vector at one position and of z, None if they are not defined, what chance would give,
        and why; more than k, where the interval needs them and there are so many.
        """
        reason = one.fewer(self.k)
        if len(one.x) <= self.k:
            return None, float("nan"), reason
        both, reason = None, reason or ("all vectors of the other are the same" if z.constant else None)
        if reason is None:
            most = min(reach(self.k), len(one.x) - 1) if self.has_interval else self.k
            both, reason = defined(
                unit, lambda: (one.nearest(most, self.metric), one._replace(x=z).nearest(most, self.metric))
            )
        chance = said_where(unit, lambda: data_chance_level(len(one.x), self.k, groups=one.groups))
        return both, chance, reason

    def _half(self, own: Neighbors, other: Neighbors, chosen: NDArray[np.int64]) -> float:
        """The overlap of some of the samples, by their neighbours among themselves; NaN where these are too few."""
        both = own.among(chosen, self.k), other.among(chosen, self.k)
        enough = len(both[0].indices) > 0 and min(side.indices.shape[1] for side in both) == self.k
        return float(data_overlap_from(*both).mean()) if enough else float("nan")


@cache
def _width(place: str, state: str | None) -> int:  # noqa: ARG001
    """The width of the vectors of a store in some state."""
    return open_store(place).header.d_model
