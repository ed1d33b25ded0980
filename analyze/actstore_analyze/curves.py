"""Curves: a measure at each role and layer of a store, as one tidy table."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.progress import bar
from actstore.store import Store
from actstore_analyze.overlap import chance_level, label_overlap
from actstore_analyze.selection import Group, Say, choose, groups, known_layers, known_roles

__all__ = ["Overlap", "curve", "n_layers"]

BLOCK_BYTES = 1 << 29  # vectors of so many positions of a role are read at a time

Vectors = NDArray[np.float32]
Classes = NDArray[np.int64]
Measure = Callable[[Vectors, Classes], float]

COLUMNS = {
    "role": pl.String,
    "condition": pl.String,
    "layer": pl.Int32,
    "depth": pl.Float64,
    "value": pl.Float64,
    "se": pl.Float64,
    "positions": pl.Int32,
    "n": pl.Int64,
}


@dataclass(frozen=True)
class Overlap:
    """A call of `actstore overlap`: what is asked of a store. The fields are the parameters of the saved result."""

    roles: tuple[str, ...]
    layers: tuple[int, ...]
    label: str = "label"
    k: int = 30
    metric: str = "euclidean"
    weights: str = "uniform"
    sql: str = "from rows"
    positions: int | None = None
    seed: int = 0

    measure = "overlap"

    @classmethod
    def of(
        cls, store: Store, *, roles: Sequence[str] | None = None, layers: Sequence[int] | None = None, **other: Any
    ) -> "Overlap":
        """The call with its roles and layers checked; without any: the usual roles, all layers."""
        return cls(roles=known_roles(store, roles), layers=known_layers(store, layers), **other)

    @property
    def parameters(self) -> dict[str, Any]:
        """As they are kept with the result."""
        return asdict(self) | {"roles": list(self.roles), "layers": list(self.layers)}

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """role, condition, layer, depth, overlap, se, positions, chance, k, metric, weights, n.

        overlap is NaN where it is not defined: all vectors of the layer are the same.
        """
        rows = choose(store, self.sql, self.roles, self.label, say=say)
        rows = rows.with_columns(pl.col("label").rank("dense").cast(pl.Int64))
        found = list(groups(rows, self.roles, say=say))
        for group in found:
            self._check(group)
        sampled = [_sampled(group, self.positions, self.seed) for group in found]
        chances = [chance_level(_labels(group.positions[0]), weights=self.weights) for group in sampled]
        with bar(len(sampled) * len(self.layers), "layers") as progress:
            curves = [curve(store, group, self.layers, self._value, progress.advance) for group in sampled]
        return pl.concat(
            one.rename({"value": "overlap"}).with_columns(chance=pl.lit(chance))
            for one, chance in zip(curves, chances, strict=True)
        ).select(
            *("role", "condition", "layer", "depth", "overlap", "se", "positions", "chance"),
            pl.lit(self.k).alias("k"),
            pl.lit(self.metric).alias("metric"),
            pl.lit(self.weights).alias("weights"),
            "n",
        )

    def _value(self, x: Vectors, y: Classes) -> float:
        if (x == x[0]).all():  # a constant token at layer 0: every neighbour is a tie
            return float("nan")
        return label_overlap(x, y, self.k, metric=self.metric, weights=self.weights)

    def _check(self, group: Group) -> None:
        if group.n <= self.k:
            raise ActstoreError(
                f"k = {self.k}, but role '{group.role}' has {group.n} samples: "
                f"take k < {group.n} (-k), or select more rows"
            )


def curve(
    store: Store, group: Group, layers: Iterable[int], measure: Measure, advance: Callable[[], None]
) -> pl.DataFrame:
    """A measure of one group at each layer, averaged over its positions: COLUMNS.

    se is the standard deviation over positions / sqrt(positions), NULL for a single one.
    A position where the measure is NaN is not counted; NaN if there is no other.
    """
    rows = []
    for layer in layers:
        values = np.array([_of(measure, group, layer, x, y) for x, y in _vectors(store, group, layer)])
        counted = values[~np.isnan(values)]
        mean = float(counted.mean()) if len(counted) else float("nan")
        se = float(counted.std(ddof=1) / np.sqrt(len(counted))) if len(counted) > 1 else None
        depth = layer / n_layers(store)
        rows.append((group.role, group.condition, layer, depth, mean, se, len(counted), group.n))
        advance()
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def n_layers(store: Store) -> int:
    """L, the number of blocks: the last residual point of the model, stored or not."""
    return int(store.run.get("n_layers") or max(store.layers)) or 1


def _of(measure: Measure, group: Group, layer: int, x: Vectors, y: Classes) -> float:
    try:
        return measure(x, y)
    except ActstoreError as error:
        raise ActstoreError(f"role '{group.role}', layer {layer}: {error}") from None


def _vectors(store: Store, group: Group, layer: int) -> Iterator[tuple[Vectors, Classes]]:
    """Vectors (n, d) and labels (n,) of each position; several positions share one pass over the store."""
    step = max(1, BLOCK_BYTES // (group.n * store.header.d_model * 4))
    for start in range(0, len(group.positions), step):
        block = group.positions[start : start + step]
        x = store.residual(pl.concat(block), layer)
        for position, own in zip(block, x.reshape(len(block), group.n, -1), strict=True):
            yield own, _labels(position)


def _labels(rows: pl.DataFrame) -> Classes:
    return rows["label"].to_numpy()


def _sampled(group: Group, count: int | None, seed: int) -> Group:
    """The group with at most `count` of its positions, drawn without replacement."""
    if count is None or count >= len(group.positions):
        return group
    drawn = np.sort(np.random.default_rng(seed).choice(len(group.positions), count, replace=False))
    return Group(group.role, group.condition, [group.positions[i] for i in drawn])
