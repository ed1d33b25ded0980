"""How well sparse autoencoders rebuild a store's vectors: every group and layer, each beside its controls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain, groupby
from operator import add, attrgetter
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError, UndefinedError
from actstore.format.header import span
from actstore.store import Store
from actstore.store import open as open_store
from actstore_analyze import devices
from actstore_analyze.devices import Device
from actstore_analyze.published import stated
from actstore_analyze.sae.coded import Coded
from actstore_analyze.sae.formats import Sized
from actstore_analyze.sae.groups import Group, drawn, groups_of, say_models, untrained_groups, vectors
from actstore_analyze.sae.latest import Latest
from actstore_analyze.sae.measure import Moments, apart, moments, rotation, sums
from actstore_analyze.sae.parts import GROUPED, Parts, part_of
from actstore_analyze.sae.share import DRAWN, Share
from actstore_analyze.study import held, pieces, summed
from actstore_analyze.study.another import another
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import EVERYTHING, RESIDUAL, OnDevice, WithInterval, depth
from actstore_analyze.study.summed import Missing, States, Summed, totals

__all__ = ["CONTROLS", "METRICS", "Rebuilt"]

CONTROLS = ("rotated", "gaussian", "untrained")
METRICS = ("squared_error", "mse", "relative_error", "fvu", "cosine", "l0", "l0_fraction")
MOST_GAUSSIANS = 65_536
MOST_STATES = 16  # a piece of so many times its state or less is not cut: states are about an eighth of the vectors
SUMS_BYTES = 1 << 29  # of states in memory at a time
HOOKS = {
    None: "each of the input or the output of a block, as its configuration says",
    "pre": "number l of the input of block l (residual point l)",
    "post": "number l of the output of block l (residual point l + 1)",
}
AVERAGED = {
    "example": "Mean over the vectors of a sample, then over samples, as the authors' code.",
    "token": "Mean over vectors.",
}

SCHEMA = {
    **dict.fromkeys(("role", "prompt_order", "condition", "control"), pl.String),
    "layer": pl.Int32,
    "depth": pl.Float64,
    **dict.fromkeys((f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")), pl.Float64),
    **dict.fromkeys(("n", "samples", "n_features"), pl.Int64),
}


Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]

# A process has many pieces of a layer one after the other.
autoencoders: Latest[Sized] = Latest()
turns: Latest[Any] = Latest()
others: Latest[Store] = Latest()


class Unit(NamedTuple):
    """A group at one layer, and its rows (n,), in `other` where it is of the untrained adapter."""

    layer: int
    group: Group
    rows: pl.DataFrame
    other: Store | None


class Some(NamedTuple):
    """Some rows (n,): their ids, the part of the samples that each is in, and its weight."""

    row_id: NDArray[np.int64]
    part: NDArray[np.uint8]
    weight: Floats


class Piece(NamedTuple):
    """Some of the rows of the unit of a number, at its layer; is_whole: all of them. where: in words."""

    number: int
    layer: int
    some: Some
    where: str
    is_whole: bool
    is_untrained: bool


class Drawing(NamedTuple):
    """The share of all vectors of the unit of a number, at its layer, of whose moments Gaussian ones are drawn."""

    number: int
    layer: int
    share: Share
    where: str


@dataclass(frozen=True, kw_only=True)
class Rebuilt(OnDevice, WithInterval, Coded, Summed):
    """A call of `actstore sae`: reconstruction by the autoencoder of each layer."""

    average: str = "example"
    seed: int = 0
    positions: int | None = None
    no_controls: bool = False
    untrained: str | None = None
    untrained_state: str | None = None
    interval: str = "jackknife"

    measure: ClassVar[str] = "sae"
    state_of: ClassVar[type[Share]] = Share

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        layers: Sequence[int] | None = None,
        untrained: Path | str | None = None,
        **asked: Any,
    ) -> Self:
        """As of any such call; untrained: a store of the same samples by the model before it was trained."""
        other = (
            {} if untrained is None else {"untrained": str(untrained), "untrained_state": open_store(untrained).state}
        )
        return super().of(store, layers=layers, **other, **asked)

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = ["Reconstruction by sparse autoencoders", f"averaged per {self.average}"]
        asked += [f"{self.positions} vectors of each sample"] if self.positions else []
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            f"How well the autoencoder of each layer rebuilds vectors ({self.chosen}); dashed and dotted: controls. "
            "The error grows with the length of the vectors, and a curve that falls for the controls too says nothing "
            "about features: read the relative panels, and the distance to the controls."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        controls = [
            f"rotated by one random orthogonal matrix (seed {self.seed})",
            f"Gaussian vectors of the group's mean and covariance, at most {MOST_GAUSSIANS:,}",
        ]
        controls = [] if self.no_controls else controls
        controls += [f"untrained: the same samples in {self.untrained}"] if self.untrained else []
        said = f"Controls: {'; '.join(controls)}. " if controls else ""
        of_each = (
            f"Of each sample at most {self.positions} vectors, drawn with seed {self.seed}. " if self.positions else ""
        )
        return (
            "Reconstruction by sparse autoencoders (Venhoff et al., How Visual Representations Map to Language Feature "
            f"Space): autoencoders {self.saes}{f' {self.sae_id}' if self.sae_id else ''}, {HOOKS[self.hook]}. "
            "Squared error E: summed over dimensions, as the equation; mse: per dimension, as the paper's figure. "
            "Relative error: |x - x'| / |x|; fvu: squared error over variance. "
            f"{AVERAGED[self.average]} {of_each}{said}{self.on_interval(GROUPED)}Rows: {self.sql}. "
            f"Vectors: {RESIDUAL}.{self.computed}"
        )

    def command(self, store: Path | str) -> str:
        """The command line of the call, without what it found by itself."""
        return super(Rebuilt, replace(self, fingerprints=(), untrained_state=None)).command(store)

    def _published(self, model: str) -> pl.DataFrame | None:
        return stated.autoencoders("sae", model)

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """At each layer the groups that are held there, then those of the untrained adapter."""
        groups = groups_of(store, self.sql, self.roles, self.average)
        untrained = untrained_groups(self.untrained, self.untrained_state, groups, self.sql, self.average)
        found = self.source
        say_models(store, found, say)
        if bare := [layer for layer in store.layers if layer not in found.points]:
            say(f"{self.saes}: no autoencoder for layer {span(bare)}; left out")
        each = [*((None, group) for group in groups), *untrained]
        rows = [drawn(other or store, group, self.positions, self.seed) for other, group in each]
        units = []
        for layer in self.layers:
            here = {group.place for group in groups if held.holds(store, group.query, layer)}
            known = zip(each, rows, strict=True)
            units += [Unit(layer, group, own, other) for (other, group), own in known if group.place in here]
        if not units:
            raise held.NothingHeldError(held.left_out(store))
        return units

    def pieces(self, store: Store, units: Sequence[Unit]) -> list[Piece]:
        """Some rows of a group at a layer, larger where the sums of them are: these weigh little beside vectors."""
        width = store.header.d_model
        usual = pieces.size(4 * width * sum(unit.rows.height for unit in units))
        known: dict[tuple[Group, bool], list[Some]] = {}
        found = []
        for number, unit in enumerate(units):
            is_untrained = unit.other is not None
            own = (unit.group, is_untrained)
            if own not in known:
                state = Share.n_bytes(width, drawn=self._has_controls(is_untrained=is_untrained))
                known[own] = [*_cut(store, unit, max(usual, MOST_STATES * state))]
            where = f"{unit.group}, layer {unit.layer}"
            is_whole = len(known[own]) == 1
            found += [Piece(number, unit.layer, some, where, is_whole, is_untrained) for some in known[own]]
        return found

    def states(self, store: Store, piece: Piece) -> States[Share]:
        """The share of the vectors; of all vectors of a group with that of Gaussian ones."""
        sae, device = self._autoencoder(store, piece.layer), devices.opened(self.device)
        turn = self._turn(sae.d_in) if self._has_controls(is_untrained=piece.is_untrained) else None
        path, state = str(self.untrained), self.untrained_state
        where = others.get((path, state), lambda: another(path, state)) if piece.is_untrained else store

        def share() -> Share:
            rows = pl.DataFrame(piece.some._asdict())
            read = vectors(where, rows, piece.layer, n_features=sae.n_features)
            found = reduce(add, (_share(own, x, sae, turn, device) for own, x in read))
            if not piece.is_whole or turn is None:
                return found
            gaussian = {DRAWN: self._drawn(found.moments, sae)} if rows.height > 1 else {}
            return Share.of({**found.parts, **gaussian})

        return _told(piece, share)

    def drawn(self, store: Store, drawing: Drawing) -> States[Share]:
        """The share of Gaussian vectors."""
        sae = self._autoencoder(store, drawing.layer)
        return _told(drawing, lambda: Share.of({DRAWN: self._drawn(drawing.share.moments, sae)}))

    def measured(self, store: Store, units: Sequence[Unit]) -> list[pl.DataFrame | str]:
        """The rows of each unit, of as many at a time as have SUMS_BYTES of states."""
        try:
            return [
                self.row(store, units[number], total)
                for some in self._at_a_time(store, self.pieces(store, units))
                for number, total in self._totals(store, some).items()
            ]
        finally:
            for latest in (autoencoders, turns, others):
                latest.clear()

    def row(self, store: Store, unit: Unit, total: Share | Missing) -> pl.DataFrame:
        """SCHEMA and average: a row for each control. control: none, or one of CONTROLS; fvu is NaN where vectors are
        equal.

        ..._low, ..._high: the 95 % interval over samples; NULL of a single one, and of Gaussian vectors. With positions
        also their number.
        """
        kind = "none" if unit.other is None else "untrained"
        if isinstance(total, Missing):
            rows = [(*_nothing(store, unit, kind, self._autoencoder(store, unit.layer).n_features), str(total))]
        else:
            each = total.parts.items()
            rows = [(*self._row(store, unit, kind if of == "none" else of, parts), None) for of, parts in each]
        schema = {**SCHEMA, "reason": pl.String}
        table = pl.DataFrame(rows, schema=schema, orient="row").with_columns(average=pl.lit(self.average))
        return table if self.positions is None else table.with_columns(positions=pl.lit(self.positions))

    def _at_a_time(self, store: Store, cut: Sequence[Piece]) -> Iterator[list[Piece]]:
        """The pieces of some units, whose states fit memory."""
        together: list[Piece] = []
        filled = 0
        for _, each in groupby(cut, key=attrgetter("number")):
            own = [*each]
            is_drawn = not own[0].is_whole and self._has_controls(is_untrained=own[0].is_untrained)
            n_bytes = Share.n_bytes(store.header.d_model, drawn=is_drawn)
            if together and filled + n_bytes > SUMS_BYTES:
                yield together
                together, filled = [], 0
            together, filled = together + own, filled + n_bytes
        yield together

    def _totals(self, store: Store, some: Sequence[Piece]) -> States[Share]:
        """The sums of the shares of pieces; Gaussian vectors are drawn when the moments of all are known."""
        found = totals(self, store, self.states, some, Share)
        where = {piece.number: (piece.layer, piece.where) for piece in some}
        drawings = [
            Drawing(number, where[number][0], total, where[number][1])
            for number, total in found.items()
            if isinstance(total, Share) and len(total.lower)
        ]
        for number, own in (totals(self, store, self.drawn, drawings, Share) if drawings else {}).items():
            summed.add(found, number, own)
        return found

    def _has_controls(self, *, is_untrained: bool) -> bool:
        return not (self.no_controls or is_untrained)

    def _autoencoder(self, store: Store, layer: int) -> Sized:
        width = store.header.d_model
        return autoencoders.get(
            (self, self.device, layer, width),
            lambda: self.source.load(layer, width, devices.opened(self.device)),
        )

    def _turn(self, width: int) -> Any:
        """The rotation of the control, on the device."""
        device = devices.opened(self.device)
        return turns.get(
            (width, self.seed, self.device), lambda: device.put(rotation(width, self.seed).astype(np.float32))
        )

    def _drawn(self, moments: Moments, sae: Sized) -> Parts:
        """The sums of Gaussian vectors of these moments."""
        made = moments.draw(min(moments.n, MOST_GAUSSIANS), self.seed, device=devices.opened(self.device))
        return Parts({0: reduce(add, (sums(x.astype(np.float32), sae) for x in made))})

    def _row(self, store: Store, unit: Unit, control: str, total: Parts) -> tuple[object, ...]:
        whole = total.whole
        averages = whole.finish()
        ends = total.intervals(METRICS) if self.has_interval and control != DRAWN else {}
        values = [(getattr(averages, name), *ends.get(name, (None, None))) for name in METRICS]
        where = (*unit.group.place, control, unit.layer, depth(store, unit.layer))
        return (*where, *chain.from_iterable(values), averages.n, unit.group.samples, whole.n_features)


def _cut(store: Store, unit: Unit, most: int) -> Iterator[Some]:
    """The rows of a unit in pieces of at most `most` bytes."""
    row_ids, weights = unit.rows["row_id"].to_numpy(), unit.rows["weight"].to_numpy()
    parts = part_of(unit.rows).to_numpy().astype(np.uint8)
    for own, _ in pieces.cut(unit.other or store, unit.group.role, row_ids, [unit.layer], most):
        at = np.searchsorted(row_ids, own)
        yield Some(own, parts[at], weights[at])


def _told(asked: Piece | Drawing, share: Callable[[], Share]) -> States[Share]:
    """The share, or why it is not defined; errors say of which group and layer."""
    try:
        return {asked.number: share()}
    except UndefinedError as error:
        return {asked.number: error}
    except ActstoreError as error:
        raise ActstoreError(f"{asked.where}: {error}") from None


def _share(rows: pl.DataFrame, x: Vectors, sae: Sized, turn: Any, device: Device) -> Share:
    """Of vectors (n, d) as they are, and where there are controls, rotated; turn: the rotation (d, d), or None."""
    parts, weights = rows["part"].to_numpy(), rows["weight"].to_numpy()
    plain = Parts(apart(x, sae, parts, weights))
    if turn is None:
        return Share.of({"none": plain})
    turned = apart(device.get(device.put(x) @ turn), sae, parts, weights)
    # A rotation leaves the variance as it is, but for rounding, which of equal vectors would be all.
    spread = {part: (own.mean, own.scatter) for part, own in plain.of.items()}
    rotated = {part: replace(own, mean=spread[part][0], scatter=spread[part][1]) for part, own in turned.items()}
    return Share.of({"none": plain, "rotated": Parts(rotated)}, moments(x, weights, device=device).lower)


def _nothing(store: Store, unit: Unit, control: str, n_features: int) -> tuple[object, ...]:
    """A row of vectors that no reconstruction is defined of."""
    where = (*unit.group.place, control, unit.layer, depth(store, unit.layer))
    values = (float("nan"), None, None) * len(METRICS)
    return (*where, *values, unit.rows.height, unit.group.samples, n_features)
