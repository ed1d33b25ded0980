"""Linear CKA between all layers of a role and all layers of another, or of the same, in one store or two."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.store import Store
from actstore_analyze.cka.measure import COLUMNS, Sums, centred, check, mean
from actstore_analyze.study import held
from actstore_analyze.study.counterparts import Compared, counterpart, matched
from actstore_analyze.study.selection import Group, Say, choose, groups, known_layers
from actstore_analyze.study.study import EVERYTHING, RESIDUAL, depth
from actstore_analyze.study.units import sampled

__all__ = ["Cka"]

BLOCK_BYTES = 1 << 30  # vectors of a block of samples, at all layers of both sides

Means = list[NDArray[np.float64]]
Layers = list[NDArray[np.float32]]

PAIR = {
    "role": pl.String,
    "condition": pl.String,
    "layer": pl.Int32,
    "depth": pl.Float64,
    "with_store": pl.String,
    "with_role": pl.String,
    "with_condition": pl.String,
    "with_layer": pl.Int32,
    "with_depth": pl.Float64,
    "position": pl.Int32,
    "n": pl.Int64,
}


class Side(NamedTuple):
    """A role under a condition, at one position: its rows, one for each sample, and the mean (d,) at each layer."""

    role: str
    condition: str
    position: int
    rows: pl.DataFrame
    means: Means


class Unit(NamedTuple):
    """Samples of a pair of sides, from `start` on, to be set beside themselves and all that follow."""

    own: Side
    other: Side
    start: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Cka(Compared):
    """A call of `actstore cka`: CKA of each role at each layer with its counterpart at each of `with_layers`.

    The counterpart is the same role of the same store under the same condition, but for what with_... says.
    """

    with_layers: tuple[int, ...]
    unbiased: bool = False
    positions: int | None = None
    seed: int = 0

    measure: ClassVar[str] = "cka"

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        roles: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        with_store: Path | str | None = None,
        with_role: str | None = None,
        with_layers: Sequence[int] | None = None,
        **asked: Any,
    ) -> Self:
        """The call with its roles and layers checked in both stores; without layers: all that each store has."""
        other, whom = cls.with_whom(store, roles, with_store, with_role)
        beside = known_layers(other, layers if with_layers is None and other is store else with_layers)
        return super().of(store, layers=layers, with_layers=beside, **whom, **asked)

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        kind = "Unbiased linear CKA" if self.unbiased else "Linear CKA"
        return ", ".join([f"{kind} with {self.partner}", *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def partner(self) -> str:
        """What the roles are compared with, in words."""
        return self.named() or "other layers"

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            f"Linear CKA of each role at each layer with {self.partner} ({self.chosen}): 1 where the vectors are the "
            "same up to rotation and scale. A ring marks the layer that a row is most like, itself left out."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        estimator = " with the unbiased estimator of HSIC of Song et al. 2012" if self.unbiased else ""
        return (
            f"Linear centred kernel alignment{estimator} (Kornblith et al. 2019) of the vectors of the same samples "
            f"with {self.partner}, each layer with each. Vectors: {RESIDUAL}. A role with several positions in a "
            f"sample is measured at each and averaged. Rows: {self.sql}."
        )

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """Pairs of roles, conditions and positions, in blocks of samples that fit into memory."""
        other = self.other(store)
        n_layers = len(self.layers) + len(self.with_layers)
        vectors = 4 * (len(self.layers) * store.header.d_model + len(self.with_layers) * other.header.d_model)
        step = max(1, BLOCK_BYTES // (vectors + 8 * n_layers * COLUMNS) - COLUMNS)
        return [
            Unit(own, its, start, step)
            for own, its in self._sides(store, other, say)
            for start in range(0, own.rows.height, step)
        ]

    def _sides(self, store: Store, other: Store, say: Say) -> Iterator[tuple[Side, Side]]:
        """Both sides at each position, in the order in which the own rows lie in the store."""
        for group in groups(choose(store, self.sql, self.roles, None, say=say), self.roles, say=say):
            own, its = self._pair(other, group, say)
            check(own.n, unbiased=self.unbiased)
            own, its = sampled(own, self.positions, self.seed), sampled(its, self.positions, self.seed)
            for place, rows in enumerate(own.positions):
                order = rows["row_id"].arg_sort()
                beside = its.positions[place if len(its.positions) > 1 else 0]
                mine, theirs = rows.select("row_id")[order], beside.select("row_id")[order]
                first = Side(own.role, own.condition, place, mine, _means(store, mine, self.layers))
                if other is store and mine.equals(theirs) and self.layers == self.with_layers:
                    yield first, first
                else:
                    yield first, Side(its.role, its.condition, place, theirs, _means(other, theirs, self.with_layers))

    def _pair(self, other: Store, group: Group, say: Say) -> tuple[Group, Group]:
        role, condition = self.with_role or group.role, self.with_condition or group.condition
        if self.with_store is None and (role, condition) == (group.role, group.condition):
            return group, group
        return matched(group, counterpart(other, role, condition, say), say)

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """Sums of a block of samples with itself and with those that follow: a row for each pair of layers."""
        other, (own, its) = self.other(store), (unit.own, unit.other)

        def block(start: int, stop: int) -> tuple[Layers, Layers]:
            x = _vectors(store, own, self.layers, start, stop)
            return x, x if its is own else _vectors(other, its, self.with_layers, start, stop)

        n = own.rows.height
        end = min(unit.start + unit.step, n)
        sums = Sums.of(block(unit.start, end), (block(at, min(at + COLUMNS, n)) for at in range(end, n, COLUMNS)))
        where = None if self.with_store is None else Path(self.with_store).name
        pairs = [
            (own.role, own.condition, layer, depth(store, layer), where, its.role, its.condition, with_layer,
             depth(other, with_layer), own.position, n)
            for layer in self.layers for with_layer in self.with_layers
        ]  # fmt: skip
        found = {name: np.broadcast_to(value, sums.xy.shape).ravel() for name, value in vars(sums).items()}
        return pl.DataFrame(pairs, schema=PAIR, orient="row").with_columns(
            **{k: pl.Series(v) for k, v in found.items()}
        )

    def finish(self, rows: pl.DataFrame) -> pl.DataFrame:
        """role, condition, layer, depth, with_..., cka, positions, unbiased, n, reason: a row for each pair of layers.

        cka is NaN where it is not defined: all vectors of either are the same, as `reason` says.
        """
        sums = rows.group_by(*PAIR, maintain_order=True).sum()
        values = Sums(**{one.name: sums[one.name].to_numpy() for one in fields(Sums)})
        cka = pl.Series("cka", values.cka(sums["n"].to_numpy(), unbiased=self.unbiased)).fill_nan(None)
        own, other = (pl.Series(one) for one in values.varies)
        place = [name for name in PAIR if name not in ("position", "n")]
        found = pl.col("cka")
        return sums.with_columns(cka, own=own, other=other).group_by(*place, maintain_order=True).agg(
            found.mean().fill_null(float("nan")),
            positions=found.count().cast(pl.Int32),
            unbiased=pl.lit(self.unbiased),
            n=pl.col("n").first(),
            reason=pl.when(found.count() == 0).then(_why(pl.col("own").any(), pl.col("other").any())),
        )  # fmt: skip


def _why(own: pl.Expr, other: pl.Expr) -> pl.Expr:
    """Why there is no CKA of a pair, of whose sides the vectors differ or not."""
    same = "all vectors of '{}' at layer {} are the same"
    return (
        pl.when(~own)
        .then(pl.format(same, pl.col("role").first(), pl.col("layer").first()))
        .when(~other)
        .then(pl.format(same, pl.col("with_role").first(), pl.col("with_layer").first()))
        .otherwise(pl.lit("unbiased, the variance of one side comes to 0 or less"))
    )


def _vectors(store: Store, side: Side, layers: Sequence[int], start: int, stop: int) -> Layers:
    """Centred vectors (rows, d) of some samples at each layer."""
    rows = side.rows[start:stop]
    return [centred(held.residual(store, rows, layer), its) for layer, its in zip(layers, side.means, strict=True)]


def _means(store: Store, rows: pl.DataFrame, layers: Sequence[int]) -> Means:
    """The mean (d,) of the vectors of rows at each layer, a part of them at a time."""
    step = max(1, BLOCK_BYTES // (4 * store.header.d_model))
    return [mean(held.residual(store, piece, layer) for piece in rows.iter_slices(step)) for layer in layers]
