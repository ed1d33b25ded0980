"""Curves: a measure at each role and layer of a store, as one tidy table; label overlap is the first of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.overlap.measure import chance_level, label_overlap
from actstore_analyze.study.selection import Group, Say, choose, groups, known_roles
from actstore_analyze.study.study import EVERYTHING, METRICS, Prepared, depth, n_layers

__all__ = [
    "Overlap",
    "Unit",
    "constant",
    "described",
    "enough",
    "mean_and_error",
    "n_layers",
    "said_where",
    "sampled",
    "vectors",
]

BLOCK_BYTES = 1 << 29  # vectors of so many positions of a role are read at a time

Vectors = NDArray[np.float32]
Classes = NDArray[np.int64]
T = TypeVar("T")

USUALLY = ("euclidean", "uniform")
WEIGHTS = {
    "uniform": "averaged over samples, each counting once",
    "class": "averaged over classes, each counting once, as DADApy does",
}
PLACE = {"role": pl.String, "condition": pl.String, "layer": pl.Int32, "depth": pl.Float64}
SPREAD = {"se": pl.Float64, "positions": pl.Int32}


class Unit(NamedTuple):
    """A role under a condition, at one layer."""

    group: Group
    layer: int


@dataclass(frozen=True, kw_only=True)
class Overlap(Prepared):
    """A call of `actstore overlap`: label overlap by role and layer."""

    roles: tuple[str, ...]
    label: str = "label"
    k: int = 30
    metric: str = "euclidean"
    weights: str = "uniform"
    positions: int | None = None
    seed: int = 0

    measure: ClassVar[str] = "overlap"
    always: ClassVar[tuple[str, ...]] = ("label", "k")

    @classmethod
    def of(cls, store: Store, *, roles: Sequence[str] | None = None, **other: Any) -> Self:
        """The call with its roles and layers checked; without any: the usual roles, all layers."""
        return super().of(store, roles=known_roles(store, roles), **other)

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
            self.source,
            f"Rows: {self.sql}; vectors of different roles or conditions are never neighbours.",
        )
        return " ".join(sentences)

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """Roles and conditions, each at every layer."""
        chosen = choose(store, self.sql, self.roles, self.label, say=say)
        chosen = chosen.with_columns(pl.col("label").rank("dense").cast(pl.Int64))
        found = list(groups(chosen, self.roles, say=say))
        for group in found:
            enough(group, self.k)
        return [
            Unit(sampled(group, self.positions, self.seed), layer) for group in found for layer in sorted(self.layers)
        ]

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """role, condition, layer, depth, overlap, se, positions, chance, k, metric, weights, n: one row.

        overlap is NaN where it is not defined: all vectors of the layer are the same.
        """
        values = [self._value(self.prepared(x), y, unit) for x, y in vectors(store, unit)]
        mean, se, counted = mean_and_error(values)
        return described(store, unit, se, counted).with_columns(
            overlap=pl.lit(mean),
            chance=pl.lit(chance_level(_labels(unit.group.positions[0]), weights=self.weights)),
            k=pl.lit(self.k),
            metric=pl.lit(self.metric),
            weights=pl.lit(self.weights),
        ).select(*PLACE, "overlap", *SPREAD, "chance", "k", "metric", "weights", "n")  # fmt: skip

    def _value(self, x: Vectors, y: Classes, unit: Unit) -> float:
        if constant(x):  # a constant token at layer 0: every neighbour is a tie
            return float("nan")
        return said_where(unit, lambda: label_overlap(x, y, self.k, metric=self.metric, weights=self.weights))


def constant(x: Vectors) -> bool:
    """Whether all vectors are the same."""
    return bool((x == x[0]).all())


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None, int]:
    """The mean over positions, its standard error and how many were counted.

    The error is the standard deviation over positions / sqrt(positions), None for a single one.
    A position where the measure is NaN is not counted; NaN if there is no other.

    >>> mean_and_error([1.0, float("nan"), 3.0]), mean_and_error([float("nan")])
    ((2.0, 1.0, 2), (nan, None, 0))
    """
    all_values = np.array(values)
    counted = all_values[~np.isnan(all_values)]
    mean = float(counted.mean()) if len(counted) else float("nan")
    se = float(counted.std(ddof=1) / np.sqrt(len(counted))) if len(counted) > 1 else None
    return mean, se, len(counted)


def described(store: Store, unit: Unit, se: float | None, positions: int) -> pl.DataFrame:
    """One row: role, condition, layer, depth, se, positions, n."""
    group, layer = unit
    row = (group.role, group.condition, layer, depth(store, layer), se, positions, group.n)
    return pl.DataFrame([row], schema={**PLACE, **SPREAD, "n": pl.Int64}, orient="row")


def said_where(unit: Unit, value: Callable[[], T]) -> T:
    """What `value` returns; its errors say which role and layer."""
    try:
        return value()
    except ActstoreError as error:
        raise ActstoreError(f"role '{unit.group.role}', layer {unit.layer}: {error}") from None


def enough(group: Group, k: int, *, name: str = "k", option: str = "-k") -> None:
    """Raise ActstoreError for a role with too few samples for k neighbours."""
    if group.n <= k:
        raise ActstoreError(
            f"{name} = {k}, but role '{group.role}' has {group.n} samples: "
            f"take {name} < {group.n} ({option}), or select more rows"
        )


def vectors(store: Store, unit: Unit) -> Iterator[tuple[Vectors, Classes]]:
    """Vectors (n, d) and labels (n,) of each position; several positions share one pass over the store."""
    group, layer = unit
    step = max(1, BLOCK_BYTES // (group.n * store.header.d_model * 4))
    for start in range(0, len(group.positions), step):
        block = group.positions[start : start + step]
        x = store.residual(pl.concat(block), layer)
        for position, own in zip(block, x.reshape(len(block), group.n, -1), strict=True):
            yield own, _labels(position)


def _labels(rows: pl.DataFrame) -> Classes:
    return rows["label"].to_numpy()


def sampled(group: Group, count: int | None, seed: int) -> Group:
    """The group with at most `count` of its positions, drawn without replacement."""
    if count is None or count >= len(group.positions):
        return group
    drawn = np.sort(np.random.default_rng(seed).choice(len(group.positions), count, replace=False))
    return Group(group.role, group.condition, [group.positions[i] for i in drawn])
