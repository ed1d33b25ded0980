"""Units: a role under a condition at one layer, its vectors, and the row of a table that describes it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError, UndefinedError
from actstore.store import Store
from actstore_analyze.study import held
from actstore_analyze.study.selection import Group
from actstore_analyze.study.study import depth

__all__ = [
    "PLACE",
    "SPREAD",
    "Classes",
    "Unit",
    "Vectors",
    "constant",
    "defined",
    "described",
    "enough",
    "labels",
    "mean_and_error",
    "said_where",
    "sampled",
    "vectors",
    "why",
]

BLOCK_BYTES = 1 << 29  # vectors of so many positions of a role are read at a time
Vectors = NDArray[np.float32]
Classes = NDArray[np.int64]
T = TypeVar("T")
PLACE = {"role": pl.String, "condition": pl.String, "layer": pl.Int32, "depth": pl.Float64}
SPREAD = {"se": pl.Float64, "positions": pl.Int32}


class Unit(NamedTuple):
    """A role under a condition, at one layer."""

    group: Group
    layer: int


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


def defined(unit: Unit, value: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `value` returns, or None and why these vectors have none; other errors say which role and layer."""
    try:
        return value(), None
    except UndefinedError as error:
        return None, str(error)
    except ActstoreError as error:
        raise ActstoreError(f"role '{unit.group.role}', layer {unit.layer}: {error}") from None


def why(reasons: Iterable[str | None]) -> pl.Expr:
    """The column `reason` of a row: why nothing is defined, NULL where something is at one of a role's positions."""
    found = list(reasons)
    return pl.lit(None if None in found else found[0], pl.String).alias("reason")


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
        x = held.residual(store, pl.concat(block), layer)
        for position, own in zip(block, x.reshape(len(block), group.n, -1), strict=True):
            yield own, labels(position)


def labels(rows: pl.DataFrame) -> Classes:
    """The labels (n,) of rows."""
    return rows["label"].to_numpy()


def sampled(group: Group, count: int | None, seed: int) -> Group:
    """The group with at most `count` of its positions, drawn without replacement."""
    if count is None or count >= len(group.positions):
        return group
    drawn = np.sort(np.random.default_rng(seed).choice(len(group.positions), count, replace=False))
    return Group(group.role, group.condition, [group.positions[i] for i in drawn])
