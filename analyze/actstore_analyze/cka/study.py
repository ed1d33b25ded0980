"""Linear CKA between all layers of a role and all layers of another, or of the same, in one store or two."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.store import Store
from actstore_analyze import devices
from actstore_analyze.cka.blocks import Piece, Place, Rows, cut
from actstore_analyze.cka.measure import COLUMNS, Block, Mean, Sums, bounds, centred, check, fewest
from actstore_analyze.study import held, pieces
from actstore_analyze.study.counterparts import Compared, counterpart, matched
from actstore_analyze.study.intervals import Bounds
from actstore_analyze.study.selection import Group, Say, choose, groups, known_layers
from actstore_analyze.study.study import EVERYTHING, RESIDUAL, OnDevice, WithInterval, depth
from actstore_analyze.study.summed import Missing, States, Summed, add, each, there, totals
from actstore_analyze.study.units import sampled

__all__ = ["Cka"]

BLOCK_BYTES = 5 << 28  # vectors of a block of samples, and of those that are set beside it, at all layers of both sides
JACKKNIFE = (
    "Interval: 95 %, of the jackknife over samples, each left out and the others centred anew, less what is of pairs, "
    "which it counts twice (Efron and Stein 1981); normal on the scale of Fisher's z."
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]
Means = tuple[Floats, ...]  # (L, d) on either side, once where both are the same

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
    """A role under a condition and what it is compared with: the same samples, in one order, at each position."""

    own: Group
    other: Group


class Some(NamedTuple):
    """Some rows (n,) of a role on a side, 0 or 1, at layers, each with the number of the mean that they count for."""

    side: int
    role: str
    row_ids: Ints
    numbers: dict[int, int]


@dataclass(frozen=True)
class Found:
    """Sums over positions: values (k, L, M), as `Cka._values` has them, of how many (L, M); whether vectors of
    either side differ, (L, 1) and (1, M).
    """

    values: Floats
    counted: Ints
    own_varies: NDArray[np.bool_]
    other_varies: NDArray[np.bool_]

    def __add__(self, other: "Found") -> "Found":
        return Found(
            self.values + other.values,
            self.counted + other.counted,
            self.own_varies | other.own_varies,
            self.other_varies | other.other_varies,
        )


@dataclass(frozen=True, kw_only=True)
class Cka(OnDevice, WithInterval, Compared, Summed):
    """A call of `actstore cka`: CKA of each role at each layer with its counterpart at each of `with_layers`.

    The counterpart is the same role of the same store under the same condition, but for what with_... says.
    """

    with_layers: tuple[int, ...]
    unbiased: bool = False
    positions: int | None = None
    seed: int = 0
    interval: str = "jackknife"

    measure: ClassVar[str] = "cka"
    state_of: ClassVar[type[Sums]] = Sums

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
        found = []
        for group in groups(choose(store, self.sql, self.roles, None, say=say), self.roles, say=say):
            pair = self._pair(other, group, say)
            check(pair[0].n, unbiased=self.unbiased)
            order = pair[0].positions[0]["row_id"].arg_sort()
            own, its = (_ordered(sampled(side, self.positions, self.seed), order) for side in pair)
            found.append(Unit(own, its))
        return found

    def _pair(self, other: Store, group: Group, say: Say) -> tuple[Group, Group]:
        role, condition = self.with_role or group.role, self.with_condition or group.condition
        if self.with_store is None and (role, condition) == (group.role, group.condition):
            return group, group
        return matched(group, counterpart(other, role, condition, say), say)

    def pieces(self, store: Store, units: Sequence[Unit]) -> list[Piece]:
        """Some samples beside others, at all layers; where the first are not all, the mean is summed up before."""
        places = self._places(units)
        return self._pieces(store, places, self._means(store, places))

    def states(self, store: Store, piece: Piece) -> States[Sums]:
        """The sums over pairs of samples."""
        stores = store, self.other_of_piece(store)
        blocks = (self._block(stores, rows, piece.means) for rows in (piece.rows, *piece.others))
        device = devices.opened(self.device)
        try:
            sums = Sums.of(next(blocks), blocks, piece.n_others, inside=piece.inside, device=device)
        except held.NothingHeldError as error:
            return {piece.place: error}
        return {piece.place: sums}

    def sums(self, store: Store, some: Some) -> States[Mean]:
        """What mean vectors are made of."""
        found: States[Mean] = {}
        store = self.other_of_piece(store) if some.side else store
        for rows, layers in pieces.cut(store, some.role, some.row_ids, [*some.numbers], pieces.BLOCK_BYTES):
            for layer, x in held.by_layer(store, rows, layers):
                add(found, some.numbers[layer], x if isinstance(x, held.NothingHeldError) else Mean.of(x))
        return found

    def summed(self, store: Store, units: Sequence[Unit]) -> States[Found]:
        """The values of each place, as soon as its pieces have come, summed over those of a unit."""
        places = self._places(units)
        means = self._means(store, places)
        parts = self._pieces(store, places, means)
        found: States[Found] = {}
        for number, mean in means.items():
            if isinstance(mean, Missing):
                add(found, places[number].unit, mean)
        with closing(each(self, store, self.states, parts, Sums)) as states:
            for number, own in groupby(zip(parts, states, strict=True), lambda one: one[0].place):
                add(found, places[number].unit, self._found(places[number], own))
        return found

    def row(self, store: Store, unit: Unit, total: Found) -> pl.DataFrame:
        """role, condition, layer, depth, with_..., cka, low, high, positions, unbiased, n, reason: a row for each pair
        of layers.

        low, high: the 95 % interval, of the jackknife over samples; NULL where one cannot be left out.
        cka is NaN where it is not defined: all vectors of either are the same, as `reason` says.
        """
        other, (own, its), counted = self.other(store), unit, total.counted
        mean = total.values / np.where(counted, counted, np.nan)
        where = None if self.with_store is None else Path(self.with_store).name
        found = []
        for i, j in np.ndindex(counted.shape):
            at, its_at = self.layers[i], self.with_layers[j]
            place = own.role, own.condition, at, depth(store, at), where, its.role, its.condition, its_at
            vary = bool(total.own_varies[i, 0]), bool(total.other_varies[0, j])
            why = None if counted[i, j] else _why(own, its, (at, its_at), vary)
            ends = self._ends(mean[:, i, j], int(counted[i, j]))
            found.append((*place, depth(other, its_at), mean[0, i, j], *ends, counted[i, j], self.unbiased, own.n, why))
        return pl.DataFrame(found, schema=SCHEMA, orient="row")

    def _places(self, units: Sequence[Unit]) -> list[Place]:
        """The positions of units."""
        is_own = self.with_store is None and self.with_layers == self.layers
        found = []
        for number, (own, its) in enumerate(units):
            for place, rows in enumerate(own.positions):
                beside = its.positions[place if its.positions[1:] else 0]
                x, y = rows["row_id"].to_numpy(), beside["row_id"].to_numpy()
                sides = (x,) if is_own and np.array_equal(x, y) else (x, y)
                found.append(Place(number, (own.role, its.role), sides))
        return found

    def _step(self, store: Store) -> int:
        """How many samples, at all layers, are in memory, beside a quarter as many of others."""
        widths = [(len(self.layers), store.header.d_model), (len(self.with_layers), self.other(store).header.d_model)]
        return max(1, BLOCK_BYTES // sum(n_layers * (5 * d_model + 16 * COLUMNS) for n_layers, d_model in widths))

    def _means(self, store: Store, places: Sequence[Place]) -> dict[int, Means | Missing]:
        """Those of each place, by its number, that has more samples than are in memory; or what is missing of them."""
        step, stores = self._step(store), (store, self.other(store))
        large = [number for number, place in enumerate(places) if place.n > step]
        asked = [(number, side) for number in large for side in range(len(places[number].rows))]
        if not asked:
            return {}
        keys = [(*one, layer) for one in asked for layer in self._layers(one[1])]
        numbers = {key: number for number, key in enumerate(keys)}
        most = pieces.size(sum(4 * places[number].n * stores[side].header.d_model for number, side, _ in keys))
        some = []
        for number, side in asked:
            role, row_ids = places[number].roles[side], places[number].rows[side]
            for rows, layers in pieces.cut(stores[side], role, row_ids, self._layers(side), most):
                some.append(Some(side, role, rows, {layer: numbers[number, side, layer] for layer in layers}))
        sums = totals(self, store, self.sums, some, Mean)
        found: dict[int, Means | Missing] = {}
        for number, sides in groupby(asked, lambda one: one[0]):
            each_layer = ([sums[numbers[*one, layer]] for layer in self._layers(one[1])] for one in sides)
            try:
                found[number] = tuple(np.stack([there(own).value for own in side]) for side in each_layer)
            except held.NothingHeldError as error:
                found[number] = error
        return found

    def _pieces(self, store: Store, places: Sequence[Place], means: Mapping[int, Means | Missing]) -> list[Piece]:
        """Of places whose means are known, or are those of the samples of a piece."""
        step = self._step(store)
        known = [(number, place, means.get(number)) for number, place in enumerate(places)]
        some = [cut(number, place, step, own) for number, place, own in known if not isinstance(own, Missing)]
        return [piece for of_place in some for piece in of_place]

    def _block(self, stores: tuple[Store, Store], rows: Rows, means: Means | None) -> Block:
        """Vectors of some samples, less the mean of all, or of these."""
        sides = []
        for side, row_ids in enumerate(rows):
            x = held.residuals(stores[side], row_ids, self._layers(side))
            for at in range(x.shape[1]):
                x[:, at] = centred(x[:, at], Mean.of(x[:, at]).value if means is None else means[side][at])
            sides.append([x[:, at] for at in range(x.shape[1])])
        return sides[0], sides[-1]

    def _layers(self, side: int) -> tuple[int, ...]:
        return self.with_layers if side else self.layers

    def _found(self, place: Place, some: Iterable[tuple[Piece, States[Sums]]]) -> Found | Missing:
        """The values of a place, from its pieces."""
        shape = place.n, len(self.layers), len(self.with_layers)
        try:
            sums = Sums.together(shape, ((piece.at, there(states[piece.place])) for piece, states in some))
        except held.NothingHeldError as error:
            return error
        values = self._values(sums)
        known = ~np.isnan(values[0])
        return Found(np.where(known, values, 0), known.astype(int), *sums.varies)

    def _values(self, sums: Sums) -> Floats:
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


def _ordered(group: Group, order: pl.Series) -> Group:
    """The group with its samples in another order."""
    return Group(group.role, group.condition, [rows[order] for rows in group.positions])


def _why(own: Group, its: Group, layers: tuple[int, int], vary: tuple[bool, bool]) -> str:
    """Why there is no CKA of a pair, of whose sides the vectors differ or not."""
    for group, layer, varies in zip((own, its), layers, vary, strict=True):
        if not varies:
            return f"all vectors of '{group.role}' at layer {layer} are the same"
    return "unbiased, the variance of one side comes to 0 or less"
