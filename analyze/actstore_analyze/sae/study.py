"""How well sparse autoencoders rebuild a store's vectors: every group and layer, each beside its controls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import chain
from operator import add
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

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
from actstore_analyze.sae.groups import (
    Group,
    drawn,
    groups_of,
    say_models,
    untrained_groups,
    vectors,
)
from actstore_analyze.sae.measure import Moments, apart, moments, rotation, sums
from actstore_analyze.sae.parts import GROUPED, Parts, part_of
from actstore_analyze.study import held
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import EVERYTHING, RESIDUAL, OnDevice, WithInterval, depth

__all__ = ["CONTROLS", "METRICS", "Rebuilt"]

CONTROLS = ("rotated", "gaussian", "untrained")
METRICS = ("squared_error", "mse", "relative_error", "fvu", "cosine", "l0", "l0_fraction")
MOST_GAUSSIANS = 65_536
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


@dataclass(frozen=True, kw_only=True)
class Rebuilt(OnDevice, WithInterval, Coded):
    """A call of `actstore sae`: reconstruction by the autoencoder of each layer."""

    average: str = "example"
    seed: int = 0
    positions: int | None = None
    no_controls: bool = False
    untrained: str | None = None
    untrained_state: str | None = None
    interval: str = "jackknife"

    measure: ClassVar[str] = "sae"

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

    def units(self, store: Store, *, say: Say) -> list[int]:
        """The layers; first what can be wrong with the rows."""
        untrained_groups(
            self.untrained,
            self.untrained_state,
            groups_of(store, self.sql, self.roles, self.average),
            self.sql,
            self.average,
        )
        found = self.source
        say_models(store, found, say)
        if bare := [layer for layer in store.layers if layer not in found.points]:
            say(f"{self.saes}: no autoencoder for layer {span(bare)}; left out")
        return list(self.layers)

    def rows(self, store: Store, unit: int) -> pl.DataFrame:
        """SCHEMA and average, at one layer. control: none, or one of CONTROLS; fvu is NaN where vectors are equal.

        ..._low, ..._high: the 95 % interval over samples; NULL of a single one, and of Gaussian vectors. With positions
        also their number.
        """
        device = devices.opened(self.device)
        sae = self.source.load(unit, store.header.d_model, device)
        groups = groups_of(store, self.sql, self.roles, self.average)
        groups = [self._drawn(store, group) for group in groups if held.holds(store, group.query, unit)]
        if not groups:
            raise held.NothingHeldError(held.left_out(store))
        found, undefined = [], []
        for group in groups:
            try:
                found += [(group, *one) for one in self._measured(store, group, unit, sae)]
            except UndefinedError as error:
                undefined.append((group, str(error)))
        found += [
            (group, "untrained", _summed(partial(_plain, sae), other, group, unit, sae))
            for other, group in (
                (other, self._drawn(other, group))
                for other, group in untrained_groups(
                    self.untrained, self.untrained_state, groups, self.sql, self.average
                )
            )
        ]
        where = (unit, depth(store, unit))
        rows = [(*self._row(group, control, where, total), None) for group, control, total in found]
        rows += [(*_nothing(group, where, sae.n_features), reason) for group, reason in undefined]
        schema = {**SCHEMA, "reason": pl.String}
        table = pl.DataFrame(rows, schema=schema, orient="row").with_columns(average=pl.lit(self.average))
        return table if self.positions is None else table.with_columns(positions=pl.lit(self.positions))

    def _drawn(self, store: Store, group: Group) -> Group:
        return drawn(store, group, self.positions, self.seed)

    def _measured(self, store: Store, group: Group, layer: int, sae: Sized) -> Iterator[tuple[str, Parts]]:
        if self.no_controls:
            return iter([("none", _summed(partial(_plain, sae), store, group, layer, sae))])
        return measured(store, group, layer, sae, self.seed, devices.opened(self.device))

    def _row(self, group: Group, control: str, where: tuple[int, float], total: Parts) -> tuple[object, ...]:
        whole = total.whole
        averages = whole.finish()
        ends = total.intervals(METRICS) if self.has_interval and control != "gaussian" else {}
        values = [(getattr(averages, name), *ends.get(name, (None, None))) for name in METRICS]
        of = (group.role, group.prompt_order, group.condition, control)
        return (*of, *where, *chain.from_iterable(values), averages.n, group.samples, whole.n_features)


@dataclass(frozen=True)
class Part:
    """What some vectors of a group add: their sums, those of their rotation, and their moments."""

    plain: Parts
    rotated: Parts
    moments: Moments

    def __add__(self, other: "Part") -> "Part":
        return Part(self.plain + other.plain, self.rotated + other.rotated, self.moments + other.moments)


Vectors = NDArray[np.float32]
Total = TypeVar("Total", Part, Parts)


def measured(
    store: Store, group: Group, layer: int, sae: Sized, seed: int, device: Device = devices.HOST
) -> Iterator[tuple[str, Parts]]:
    """The sums of a group, of the same vectors rotated, and of Gaussian ones (MOST_GAUSSIANS at most); one pass."""
    turn = device.put(rotation(sae.d_in, seed).astype(np.float32))

    def part(rows: pl.DataFrame, x: Vectors) -> Part:
        weights = rows["weight"].to_numpy()
        turned = device.get(device.put(x) @ turn)
        return Part(_plain(sae, rows, x), _plain(sae, rows, turned), moments(x, weights, device=device))

    whole = _summed(part, store, group, layer, sae)
    yield "none", whole.plain
    yield "rotated", whole.rotated
    if group.n > 1:
        made = whole.moments.draw(min(group.n, MOST_GAUSSIANS), seed, device=device)
        yield "gaussian", Parts({0: reduce(add, (sums(x.astype(np.float32), sae) for x in made))})


def _plain(sae: Sized, rows: pl.DataFrame, x: Vectors) -> Parts:
    return Parts(apart(x, sae, part_of(rows).to_numpy(), rows["weight"].to_numpy()))


def _summed(
    part: Callable[[pl.DataFrame, Vectors], Total], store: Store, group: Group, layer: int, sae: Sized
) -> Total:
    try:
        return reduce(add, (part(*piece) for piece in vectors(store, group, layer, n_features=sae.n_features)))
    except UndefinedError:
        raise
    except ActstoreError as error:
        raise ActstoreError(f"{group}, layer {layer}: {error}") from None


def _nothing(group: Group, where: tuple[int, float], n_features: int) -> tuple[object, ...]:
    """A row of vectors that no reconstruction is defined of."""
    of = (group.role, group.prompt_order, group.condition, "none")
    values = (float("nan"), None, None) * len(METRICS)
    return (*of, *where, *values, group.n, group.samples, n_features)
