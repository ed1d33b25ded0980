"""Calls of `actstore dimension`: the intrinsic dimension of each role at each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import polars as pl

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.dimension.measure import gride
from actstore_analyze.study.neighborhood import Neighborhood, OfNeighbors, sized
from actstore_analyze.study.selection import Say, choose, groups, known_roles
from actstore_analyze.study.study import EVERYTHING, METRICS
from actstore_analyze.study.units import (
    PLACE,
    Unit,
    defined,
    described,
    enough,
    mean_and_error,
    sampled,
    why,
)

__all__ = ["Dimension"]


class Found(NamedTuple):
    """The dimension at one position, NaN where there is none, its error, the distance of the neighbours, the size."""

    id: float
    error: float
    distance: float
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Dimension(OfNeighbors):
    """Gride at one rank, by role and layer."""

    roles: tuple[str, ...]
    rank: int = 16
    metric: str = "euclidean"
    positions: int | None = None
    seed: int = 0

    measure: ClassVar[str] = "dimension"

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = [f"Intrinsic dimension, rank {self.rank}", *([self.metric] if self.metric != "euclidean" else [])]
        asked += [self.preparation] if self.preparation else []
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return f"Intrinsic dimension of each role's vectors at each layer ({self.chosen}); band: one standard error."

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            f"Intrinsic dimension by Gride (Denti et al. 2022): the likeliest given the ratios of the distances of "
            f"neighbours {self.rank // 2} and {self.rank}. Distance: {METRICS[self.metric]}. A role with several "
            f"positions in a sample is measured at each and averaged. Rows: {self.sql}. {self.source}"
        )

    @classmethod
    def of(cls, store: Store, *, roles: Sequence[str] | None = None, rank: int = 16, **other: object) -> Self:
        """The call with its roles, layers and rank checked; without any: the usual roles, all layers."""
        if rank < 2 or rank & (rank - 1):
            raise ActstoreError(f"rank {rank}: Gride compares ranks 2, 4, 8, 16, ...; take one of these")
        return super().of(store, roles=known_roles(store, roles), rank=rank, **other)  # type: ignore[arg-type]

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """Roles and conditions, each at every layer."""
        found = list(groups(choose(store, self.sql, self.roles, None, group=self.group, say=say), self.roles, say=say))
        for group in found:
            enough(group, self.rank, name="rank", option="--rank")
        return [Unit(sampled(group, self.positions, self.seed), layer) for group in found for layer in self.layers]

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """role, condition, layer, depth, id, error, distance, rank, metric, positions, n, copies: one row.

        error: of the likelihood; over several positions the mean of theirs, which do not err independently.
        id is NaN where vectors coincide, or too few are unique.
        """
        found, reasons = zip(*(self._found(one, unit) for one in self.neighborhoods(store, unit)), strict=True)
        mean, _, counted = mean_and_error([one.id for one in found])
        error, _, _ = mean_and_error([one.error for one in found])
        distance, _, _ = mean_and_error([one.distance for one in found])
        return described(store, unit, None, counted).select(
            *PLACE,
            pl.lit(mean).alias("id"),
            pl.lit(error).alias("error"),
            pl.lit(distance).alias("distance"),
            pl.lit(self.rank).alias("rank"),
            pl.lit(self.metric).alias("metric"),
            "positions",
            *sized(one.size for one in found),
            why(reasons),
        )

    def _found(self, one: Neighborhood, unit: Unit) -> tuple[Found, str | None]:
        """What is found of one position, and why it is nothing."""
        nothing, reason = float("nan"), one.fewer(self.rank)
        scales = None
        if len(one.x) > self.rank:
            scales, undefined = defined(
                unit, lambda: gride(one.x, range_max=self.rank, metric=self.metric, groups=one.groups)
            )
            reason = reason or undefined
        if scales is None:
            return Found(nothing, nothing, nothing, one.size), reason
        scale = scales.row(-1, named=True)
        if scale["id"] is None:
            return Found(nothing, nothing, scale["distance"], one.size), reason or "the points coincide, or nearly so"
        return Found(scale["id"], scale["error"], scale["distance"], one.size), None
