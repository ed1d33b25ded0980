"""Label overlap at each role and layer of a store."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.neighbors import Neighbors
from actstore_analyze.overlap.measure import (
    averaged,
    chance_level,
    highest,
    known_for_interval,
    label_overlap_from,
    label_overlap_without,
)
from actstore_analyze.published import curves
from actstore_analyze.study.intervals import JACKKNIFE, LeftOut, jackknifed
from actstore_analyze.study.neighborhood import BySample, Neighborhood, OfNeighbors, sized
from actstore_analyze.study.selection import Group, Say, choose, figure_roles, groups, known_roles
from actstore_analyze.study.study import EVERYTHING, METRICS
from actstore_analyze.study.units import (
    PLACE,
    SPREAD,
    Unit,
    defined,
    described,
    enough,
    labels,
    mean_and_error,
    said_where,
    sampled,
    why,
)

__all__ = ["Overlap", "say_highest"]

Floats = NDArray[np.float64]
USUALLY = ("euclidean", "uniform")
WEIGHTS = {
    "uniform": "averaged over samples, each counting once",
    "class": "averaged over classes, each counting once, as DADApy does",
}


@dataclass(frozen=True, kw_only=True)
class Overlap(OfNeighbors):
    """A call of `actstore overlap`: label overlap by role and layer."""

    roles: tuple[str, ...]
    label: str = "label"
    k: int = 30
    metric: str = "euclidean"
    weights: str = "uniform"
    positions: int | None = None
    interval: str = "jackknife, pairs once"

    measure: ClassVar[str] = "overlap"
    always: ClassVar[tuple[str, ...]] = ("label", "k")

    @classmethod
    def of(cls, store: Store, *, roles: Sequence[str] | None = None, **other: Any) -> Self:
        """The call with its roles and layers checked; without any: those of the paper's figure, all layers."""
        if other.get("queries") and other.get("weights") == "class":
            raise ActstoreError("queries are drawn of all samples, and may miss a class; leave --weights class out")
        usual = figure_roles(store) or None
        return super().of(store, roles=known_roles(store, usual if roles is None else roles), **other)

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = [f"Label overlap with “{self.label}”, k = {self.k}"]
        asked += [part for part in (self.metric, self.weights) if part not in USUALLY]
        asked += [self.preparation] if self.preparation else []
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def slug(self) -> str:
        """The name of its files."""
        other = [part for part in (self.metric, self.weights) if part not in USUALLY]
        return "-".join([f"label-overlap-k{self.k}", *other])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return f"Label overlap χ of each role at each layer ({self.chosen}); dotted: chance."

    @property
    def methods(self) -> str:
        """How it was computed."""
        sentences = (
            f"Label overlap at k = {self.k} (neighbourhood overlap χ of Serra et al., The Narrow Gate).",
            f"For each vector: the share of its {self.k} nearest neighbours, not itself, with its own “{self.label}”.",
            f"It is {WEIGHTS[self.weights]}.",
            f"Distance: {METRICS[self.metric]}; neighbours are exact, ties go to the lower index.",
            self.on_interval(JACKKNIFE).strip(),
            self.source,
            f"Rows: {self.sql}; vectors of different roles or conditions are never neighbours.{self.computed}",
        )
        return " ".join(filter(None, sentences))

    def _published(self, model: str) -> pl.DataFrame | None:
        return curves.overlap(model)

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """Roles and conditions, each at every layer."""
        chosen = choose(store, self.sql, self.roles, self.label, group=self.group, say=say)
        chosen = chosen.with_columns(pl.col("label").rank("dense").cast(pl.Int64))
        found = list(groups(chosen, self.roles, say=say))
        for group in found:
            enough(group, self.k)
        say_highest(found, self.k, self.weights, say=say)
        return [
            Unit(sampled(group, self.positions, self.seed), layer) for group in found for layer in sorted(self.layers)
        ]

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """One row: role, condition, layer, depth, overlap, low, high, se, positions, chance, neighbors, metric, ...

        low, high: the 95 % interval of the jackknife over samples, each left out with its part in the others' overlaps;
        NULL with weights of classes, --unique or --group, and where there are fewer than k + 3. se is over samples,
        where these have several positions or are drawn, their own overlaps alone; with --queries the last column says
        of how many.
        overlap is NaN where it is not defined: all vectors of the layer are the same, or too few are unique.
        """
        found, reasons, by_sample = [], [], BySample(unit.group.n, drawn=self.queries is not None)
        left: list[LeftOut] = []
        queried = None
        for one in self.neighborhoods(store, unit):
            neighbors, chance, reason = self.neighbors(one, unit)
            shares = None if neighbors is None else label_overlap_from(neighbors.first(self.k), one.labels)
            if neighbors is not None and self.of_interval(one):
                left.append(label_overlap_without(neighbors, one.labels, self.k))
                queried = None if one.queries is None else np.isin(np.arange(unit.group.n), one.queries)
            reasons.append(reason)
            own = one.labels if one.queries is None else one.labels[one.queries]
            found.append((float("nan") if shares is None else averaged(shares, own, self.weights), chance, one.size))
            if shares is not None:
                by_sample.add(one.asked, shares)
        mean, _, counted = mean_and_error([value for value, _, _ in found])
        chance, _, _ = mean_and_error([level for _, level, _ in found])
        whole = counted > 0 and len(left) == counted
        low, high = jackknifed(mean, LeftOut.mean(left), queried) if whole else (None, None)
        se = by_sample.error(None if self.weights == "uniform" else labels(unit.group.positions[0]))
        return described(store, unit, se, counted).with_columns(
            *sized(size for _, _, size in found),
            overlap=pl.lit(mean),
            low=pl.lit(low, pl.Float64),
            high=pl.lit(high, pl.Float64),
            chance=pl.lit(chance),
            neighbors=pl.lit(self.k),
            metric=pl.lit(self.metric),
            weights=pl.lit(self.weights),
            reason=why(reasons),
        ).select(
            *(*PLACE, "overlap", "low", "high", *SPREAD, "chance"),
            *("neighbors", "metric", "weights", "n", "copies", "reason"),
        )  # fmt: skip

    @property
    def has_interval(self) -> bool:
        """Whether they are asked for, samples count alike, and each can be left out alone."""
        return super().has_interval and self.weights == "uniform"

    def neighbors(self, one: Neighborhood, unit: Unit) -> tuple[Neighbors | None, float, str | None]:
        """The neighbours of each vector at one position, None if they are not defined, what chance would give, and why.

        More than k, where the interval needs them.
        """
        reason = one.fewer(self.k)  # a constant token at layer 0: every neighbour is a tie
        if len(one.x) < 2:
            return None, float("nan"), reason
        chance = said_where(unit, lambda: chance_level(one.labels, weights=self.weights, groups=one.groups))
        if reason is not None:
            return None, chance, reason
        found, reason = defined(unit, lambda: one.nearest(max(self.k, self.of_interval(one)), self.metric))
        return found, chance, reason

    def of_interval(self, one: Neighborhood) -> int:
        """How many neighbours of each vector the interval takes; 0 where there is none."""
        return known_for_interval(len(one.x), self.k) if self.has_interval else 0


def say_highest(groups: Iterable[Group], k: int, weights: str = "uniform", *, say: Say) -> None:
    """Say, once, that a class too small for k neighbours of its own keeps the overlap below 1."""
    found = [labels(group.positions[0]) for group in groups]
    limits = [(int(np.bincount(y)[np.unique(y)].min()), highest(y, k, weights=weights)) for y in found]
    for smallest, most in dict.fromkeys(limit for limit in limits if limit[0] <= k):
        remedy = f"; with -k {smallest - 1} it can" if smallest > 1 else ""
        said = f"the overlap cannot reach 1, at most {most:.3g}{remedy}"
        say(f"k = {k}, but the smallest class has {smallest} samples: {said}")
