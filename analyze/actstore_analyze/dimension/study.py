"""Calls of `actstore dimension`: the intrinsic dimension of each role at each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.dimension.measure import gride_from
from actstore_analyze.neighbors import Neighbors
from actstore_analyze.study.intervals import HALVES, halves, of_halves, positive, reach
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
    """The dimension at one position, NaN where there is none, its error, the distance of the neighbours, the size;
    the dimensions of halves of the samples, None without an interval.
    """

    id: float
    error: float
    distance: float
    size: tuple[int, int]
    halves: NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class Dimension(OfNeighbors):
    """Gride at one rank, by role and layer."""

    roles: tuple[str, ...]
    rank: int = 16
    metric: str = "euclidean"
    positions: int | None = None
    interval: str = "subsamples"

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
        band = "its 95 % interval" if self.has_interval else "one standard error"
        return f"Intrinsic dimension of each role's vectors at each layer ({self.chosen}); band: {band}."

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            f"Intrinsic dimension by Gride (Denti et al. 2022): the likeliest given the ratios of the distances of "
            f"neighbours {self.rank // 2} and {self.rank}. Distance: {METRICS[self.metric]}. A role with several "
            f"positions in a sample is measured at each and averaged. {self.on_interval(HALVES)}"
            f"Rows: {self.sql}. {self.source}{self.computed}"
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
        """role, condition, layer, depth, id, low, high, error, distance, rank, metric, positions, n, copies: one row.

        low, high: the 95 % interval, of halves of the samples; NULL with --unique, --group and too few samples. error:
        of the likelihood, as if neighbourhoods were independent; over several positions the mean of theirs.
        id is NaN where vectors coincide, or too few are unique.
        """
        found, reasons = zip(*(self._found(one, unit) for one in self.neighborhoods(store, unit)), strict=True)
        mean, _, counted = mean_and_error([one.id for one in found])
        error, _, _ = mean_and_error([one.error for one in found])
        distance, _, _ = mean_and_error([one.distance for one in found])
        of_positions = [one.halves for one in found if one.halves is not None]
        spread = of_halves(np.mean(of_positions, axis=0), unit.group.n) if of_positions else float("nan")
        low, high = positive(mean, spread) if len(of_positions) == counted and spread > 0 else (None, None)
        return described(store, unit, None, counted).select(
            *PLACE,
            pl.lit(mean).alias("id"),
            pl.lit(low, pl.Float64).alias("low"),
            pl.lit(high, pl.Float64).alias("high"),
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
        neighbors = None
        if len(one.x) > self.rank:
            most = min(reach(self.rank), len(one.x) - 1) if self.has_interval else self.rank
            neighbors, undefined = defined(unit, lambda: one.nearest(most, self.metric))
            reason = reason or undefined
        if neighbors is None:
            return Found(nothing, nothing, nothing, one.size), reason
        scale = gride_from(neighbors, self.rank).row(-1, named=True)
        if scale["id"] is None:
            return Found(nothing, nothing, scale["distance"], one.size), reason or "the points coincide, or nearly so"
        of = halves(lambda chosen: self._half(neighbors, chosen), len(one.x)) if self.has_interval else None
        return Found(scale["id"], scale["error"], scale["distance"], one.size, of), None

    def _half(self, neighbors: Neighbors, chosen: NDArray[np.int64]) -> float:
        """The dimension of some of the samples, by their neighbours among themselves; NaN where these are too few."""
        own = neighbors.among(chosen, self.rank)
        enough = len(own.indices) > 0 and own.indices.shape[1] == self.rank
        found = gride_from(own, self.rank)["id"][-1] if enough else None
        return float("nan") if found is None else float(found)
