"""Linear CKA between all layers of a role and all layers of another, or of the same, in one store or two."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.store import Store
from actstore_analyze import devices
from actstore_analyze.cka.measure import COLUMNS, Sums, bounds, centred, check, fewest, mean
from actstore_analyze.study import held, pieces
from actstore_analyze.study.counterparts import Compared, counterpart, matched
from actstore_analyze.study.intervals import Bounds
from actstore_analyze.study.selection import Group, Say, choose, groups, known_layers
from actstore_analyze.study.study import EVERYTHING, RESIDUAL, OnDevice, WithInterval, depth
from actstore_analyze.study.units import sampled

__all__ = ["Cka"]

BLOCK_BYTES = 1 << 30  # vectors of a block of samples, at all layers of both sides
JACKKNIFE = (
    "Interval: 95 %, of the jackknife over samples, each left out and the others centred anew, less what is of pairs, "
    "which it counts twice (Efron and Stein 1981); normal on the scale of Fisher's z."
)

Floats = NDArray[np.float64]
Layers = list[NDArray[np.float32]]

SCHEMA = {
    "role": pl.String,
    "condition": pl.String,
    "layer": pl.Int32,
    "depth": pl.Float64,
    "with_store": pl.String,
    "with_role": pl.String,
    "with_condition": pl.String,
    "with_layer": pl.Int32,
    "with_depth": pl.Float64,
    "cka": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "positions": pl.Int32,
    "unbiased": pl.Boolean,
    "n": pl.Int64,
    "reason": pl.String,
}


class Unit(NamedTuple):
    """A role under a condition and what it is compared with: the same samples, in one order, at each position.

    step: how many samples, at all layers, are in memory at a time; other is own where both are the same.
    """

    own: Group
    other: Group
    step: int


@dataclass(frozen=True, kw_only=True)
class Cka(OnDevice, WithInterval, Compared):
    """A call of `actstore cka`: CKA of each role at each layer with its counterpart at each of `with_layers`.

    The counterpart is the same role of the same store under the same condition, but for what with_... says.
    """

    with_layers: tuple[int, ...]
    unbiased: bool = False
    positions: int | None = None
    seed: int = 0
    interval: str = "jackknife"

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
            f"sample is measured at each and averaged. {self.on_interval(JACKKNIFE)}Rows: {self.sql}."
            f"{self.computed}"
        )

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """Pairs of roles under a condition, their samples in the order in which the own rows lie in the store."""
        other = self.other(store)
        n_layers = len(self.layers) + len(self.with_layers)
        vectors = 4 * (len(self.layers) * store.header.d_model + len(self.with_layers) * other.header.d_model)
        step = max(1, BLOCK_BYTES // (vectors + 16 * n_layers * COLUMNS) - COLUMNS)
        found = []
        for group in groups(choose(store, self.sql, self.roles, None, say=say), self.roles, say=say):
            pair = self._pair(other, group, say)
            check(pair[0].n, unbiased=self.unbiased)
            order = pair[0].positions[0]["row_id"].arg_sort()
            own, its = (_ordered(sampled(side, self.positions, self.seed), order) for side in pair)
            found.append(Unit(own, its, step))
        return found

    def _pair(self, other: Store, group: Group, say: Say) -> tuple[Group, Group]:
        role, condition = self.with_role or group.role, self.with_condition or group.condition
        if self.with_store is None and (role, condition) == (group.role, group.condition):
            return group, group
        return matched(group, counterpart(other, role, condition, say), say)

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """role, condition, layer, depth, with_..., cka, low, high, positions, unbiased, n, reason: a row for each pair
        of layers.

        low, high: the 95 % interval, of the jackknife over samples; NULL where one cannot be left out.
        cka is NaN where it is not defined: all vectors of either are the same, as `reason` says.
        """
        other, (own, its) = self.other(store), (unit.own, unit.other)
        sides = [(len(self.layers), 1), (1, len(self.with_layers))]
        total, counted = np.zeros(()), np.zeros((sides[0][0], sides[1][1]), int)
        varies = [np.zeros(shape, bool) for shape in sides]
        for number in range(len(own.positions)):
            sums = self._sums(store, other, unit, number)
            each = self._each(sums)
            known = ~np.isnan(each[0])
            total, counted = total + np.where(known, each, 0), counted + known
            varies = [np.logical_or(*pair) for pair in zip(varies, sums.varies, strict=True)]
        mean = total / np.where(counted, counted, np.nan)
        where = None if self.with_store is None else Path(self.with_store).name
        found = []
        for i, j in np.ndindex(counted.shape):
            at, there = self.layers[i], self.with_layers[j]
            place = own.role, own.condition, at, depth(store, at), where, its.role, its.condition, there
            why = None if counted[i, j] else _why(own, its, (at, there), (varies[0][i, 0], varies[1][0, j]))
            ends = self._ends(mean[:, i, j], int(counted[i, j]))
            found.append((*place, depth(other, there), mean[0, i, j], *ends, counted[i, j], self.unbiased, own.n, why))
        return pl.DataFrame(found, schema=SCHEMA, orient="row")

    def _sums(self, store: Store, other: Store, unit: Unit, place: int) -> Sums:
        """Of the vectors at one position."""
        own = _Side.of(store, unit.own, place, self.layers)
        its = _Side.of(other, unit.other, place, self.with_layers, like=own if other is store else None)

        def block(start: int, stop: int) -> tuple[Layers, Layers]:
            x = own.centred(start, stop)
            return x, x if its is own else its.centred(start, stop)

        shape = unit.own.n, len(self.layers), len(self.with_layers)
        return Sums.of(block, shape, unit.step, devices.opened(self.device))

    def _each(self, sums: Sums) -> Floats:
        """CKA (1, L, M), and where an interval is asked for what is of pairs, and CKA without each sample (n, L, M)."""
        value = sums.cka(unbiased=self.unbiased)[None]
        if not self.has_interval or len(sums.a) <= fewest(unbiased=self.unbiased):
            return value
        of_pairs = sums.of_pairs(unbiased=self.unbiased)[None]
        return np.concatenate([value, of_pairs, sums.without(unbiased=self.unbiased)])

    def _ends(self, each: Floats, positions: int) -> Bounds | tuple[None, None]:
        """The interval from means over positions, of which what is of pairs counts as if each had other pairs."""
        if len(each) == 1 or np.isnan(each).any():
            return None, None
        value, of_pairs, *without = each
        return bounds(value, np.array(without), of_pairs / positions, unbiased=self.unbiased)


class _Side(NamedTuple):
    """A role at one position, whose means (L, d) at each layer are known."""

    store: Store
    rows: pl.DataFrame
    layers: tuple[int, ...]
    means: Floats

    @classmethod
    def of(
        cls, store: Store, group: Group, place: int, layers: tuple[int, ...], like: "_Side | None" = None
    ) -> "_Side":
        """A side of the same store with the same rows and layers is itself. The mean is taken a part at a time."""
        rows = group.positions[place if len(group.positions) > 1 else 0].select("row_id")
        if like is not None and rows.equals(like.rows) and layers == like.layers:
            return like
        step = max(1, pieces.BLOCK_BYTES // (4 * store.header.d_model * len(layers)))
        means = mean(held.residuals(store, piece, layers) for piece in rows.iter_slices(step))
        return cls(store, rows, layers, means)

    def centred(self, start: int, stop: int) -> Layers:
        """Vectors (rows, d) of some samples at each layer, less the mean of all."""
        x = held.residuals(self.store, self.rows[start:stop], self.layers)
        return [centred(x[:, at], its) for at, its in enumerate(self.means)]


def _ordered(group: Group, order: pl.Series) -> Group:
    """The group with its samples in another order."""
    return Group(group.role, group.condition, [rows[order] for rows in group.positions])


def _why(own: Group, its: Group, layers: tuple[int, int], vary: tuple[bool, bool]) -> str:
    """Why there is no CKA of a pair, of whose sides the vectors differ or not."""
    for group, layer, varies in zip((own, its), layers, vary, strict=True):
        if not varies:
            return f"all vectors of '{group.role}' at layer {layer} are the same"
    return "unbiased, the variance of one side comes to 0 or less"
