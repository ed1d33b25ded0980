"""Calls of `actstore outliers`: norms and massive dimensions of each role at each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.outliers.measure import Magnitudes
from actstore_analyze.study import held, pieces
from actstore_analyze.study.selection import Say, known_roles
from actstore_analyze.study.study import EVERYTHING, RESIDUAL, depth
from actstore_analyze.study.summed import States, Summed, add
from actstore_analyze.study.units import PLACE

__all__ = ["Outliers"]

Vectors = NDArray[np.float32]

COLUMNS = {
    **PLACE,
    "norm_q25": pl.Float64,
    "norm_median": pl.Float64,
    "norm_q75": pl.Float64,
    "norm_max": pl.Float64,
    "top_dim": pl.Int64,
    "top_share": pl.Float64,
    "top3_share": pl.Float64,
    "massive": pl.Int64,
    "massive_dims": pl.String,
    "n": pl.Int64,
}


class Unit(NamedTuple):
    """A role under a condition, its rows (n,), at one layer."""

    role: str
    condition: str
    row_ids: NDArray[np.int64]
    layer: int


class Piece(NamedTuple):
    """Some rows (n,) of a role, at the layers of some units, whose numbers these are."""

    role: str
    row_ids: NDArray[np.int64]
    numbers: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class Outliers(Summed):
    """Quartiles of the norms, the largest dimension's share, and the dimensions far above the average one."""

    roles: tuple[str, ...]
    times: float = 10.0

    measure: ClassVar[str] = "outliers"
    state_of: ClassVar[type[Magnitudes]] = Magnitudes

    @classmethod
    def of(cls, store: Store, *, roles: Sequence[str] | None = None, **asked: Any) -> Self:
        """The call with its roles and layers checked; without any: all."""
        return super().of(store, roles=known_roles(store, store.roles if roles is None else roles), **asked)

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        return ", ".join(["Norms and massive dimensions", *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            f"Above: median norm of each role's vectors at each layer ({self.chosen}), with the interquartile band. "
            "Below: the share of the squared norms that the largest single dimension makes. Where it is high, that "
            "dimension owns the distances: measure again with --drop-dims or --center."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            f"Norms are euclidean. A dimension is massive if its mean magnitude is more than {self.times:g} times that "
            f"of the average dimension of the same vectors. Rows: {self.sql}. Vectors: {RESIDUAL}."
        )

    def units(self, store: Store, *, say: Say) -> list[Unit]:  # noqa: ARG002
        """Roles and conditions, each at every layer."""
        listed, query = ", ".join(map(literal, self.roles)), self.sql.strip().rstrip(";")
        chosen = store.sql(
            f"select role, condition, row_id from rows where role in ({listed}) "
            f"and row_id in (select row_id from (\n{query}\n)) order by all"
        ).partition_by("role", "condition", as_dict=True, maintain_order=True)
        for role in self.roles:
            if role not in {found for found, _ in chosen}:
                raise ActstoreError(f"the query selects no row of role '{role}'")
        order = {role: place for place, role in enumerate(self.roles)}
        pairs = sorted(chosen, key=lambda pair: order[pair[0]])
        return [
            Unit(str(role), str(condition), chosen[role, condition]["row_id"].to_numpy(), layer)
            for role, condition in pairs
            for layer in self.layers
        ]

    def pieces(self, store: Store, units: Sequence[Unit]) -> list[Piece]:
        """Some rows of a role and condition, at all layers where they are not too many."""
        most, found = pieces.size(4 * store.header.d_model * sum(len(unit.row_ids) for unit in units)), []
        for _, each in groupby(enumerate(units), key=lambda one: (one[1].role, one[1].condition)):
            own = {unit.layer: (number, unit) for number, unit in each}
            role, _, row_ids, _ = next(iter(own.values()))[1]
            for rows, layers in pieces.cut(store, role, row_ids, [*own], most):
                found.append(Piece(role, rows, {layer: own[layer][0] for layer in layers}))
        return found

    def states(self, store: Store, piece: Piece) -> States[Magnitudes]:
        """The magnitudes of the vectors at each layer."""
        found: States[Magnitudes] = {}
        for rows, layers in pieces.cut(store, piece.role, piece.row_ids, [*piece.numbers], pieces.BLOCK_BYTES):
            for layer, x in held.by_layer(store, rows, layers):
                add(found, piece.numbers[layer], x if isinstance(x, held.NothingHeldError) else _of(piece, layer, x))
        return found

    def row(self, store: Store, unit: Unit, total: Magnitudes) -> pl.DataFrame:
        """One row: role, condition, layer, depth, norms, top_dim, top_share, top3_share, massive, massive_dims, n."""
        role, condition, _, layer = unit
        quartiles = np.quantile(total.norms, [0.25, 0.5, 0.75]).tolist()
        shares = np.sort(total.shares)[::-1].cumsum()
        massive = total.massive(self.times).tolist()
        row = (
            *(role, condition, layer, depth(store, layer), *quartiles, float(total.norms.max())),
            *(int(total.squares.argmax()), float(shares[0]), float(shares[:3][-1]), len(massive)),
            *(",".join(map(str, massive)), len(total.norms)),
        )
        return pl.DataFrame([row], schema=COLUMNS, orient="row")


def _of(piece: Piece, layer: int, x: Vectors) -> Magnitudes:
    try:
        return Magnitudes.of(x)
    except ActstoreError as error:
        raise ActstoreError(f"role '{piece.role}', layer {layer}: {error}") from None
