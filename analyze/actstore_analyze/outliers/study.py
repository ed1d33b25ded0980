"""Calls of `actstore outliers`: norms and massive dimensions of each role at each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl

from actstore.errors import ActstoreError
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.outliers.measure import magnitudes
from actstore_analyze.study import held
from actstore_analyze.study.selection import Say, known_roles
from actstore_analyze.study.study import EVERYTHING, RESIDUAL, PerLayer, depth

__all__ = ["Outliers"]


class Unit(NamedTuple):
    """A role under a condition, at one layer."""

    role: str
    condition: str
    layer: int


@dataclass(frozen=True, kw_only=True)
class Outliers(PerLayer):
    """Quartiles of the norms, the largest dimension's share, and the dimensions far above the average one."""

    roles: tuple[str, ...]
    times: float = 10.0

    measure: ClassVar[str] = "outliers"

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
        listed = ", ".join(map(literal, self.roles))
        found = store.sql(
            f"select distinct role, condition from rows where role in ({listed}) and {self._chosen_rows()} order by all"
        )
        for role in self.roles:
            if role not in found["role"]:
                raise ActstoreError(f"the query selects no row of role '{role}'")
        order = {role: place for place, role in enumerate(self.roles)}
        pairs = sorted(found.iter_rows(), key=lambda pair: order[pair[0]])
        return [Unit(role, condition, layer) for role, condition in pairs for layer in self.layers]

    def _chosen_rows(self) -> str:
        query = self.sql.strip().rstrip(";")
        return f"row_id in (select row_id from (\n{query}\n))"

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """One row: role, condition, layer, depth, norms, top_dim, top_share, top3_share, massive, massive_dims, n."""
        role, condition, layer = unit
        query = f"from rows where role = {literal(role)} and condition = {literal(condition)} and {self._chosen_rows()}"
        try:
            found = magnitudes(x for _, x in held.batches(store, query, layer))
        except held.NothingHeldError:
            raise
        except ActstoreError as error:
            raise ActstoreError(f"role '{role}', layer {layer}: {error}") from None
        q25, median, q75 = np.quantile(found.norms, [0.25, 0.5, 0.75]).tolist()
        shares = np.sort(found.shares)[::-1]
        massive = found.massive(self.times).tolist()
        return pl.DataFrame(
            {
                "role": role,
                "condition": condition,
                "layer": pl.Series([layer], dtype=pl.Int32),
                "depth": depth(store, layer),
                "norm_q25": q25,
                "norm_median": median,
                "norm_q75": q75,
                "norm_max": float(found.norms.max()),
                "top_dim": int(found.squares.argmax()),
                "top_share": float(shares[0]),
                "top3_share": float(shares[:3].sum()),
                "massive": len(massive),
                "massive_dims": ",".join(map(str, massive)),
                "n": len(found.norms),
            }
        )
