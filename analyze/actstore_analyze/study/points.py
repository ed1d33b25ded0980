"""Points of a neighbourhood: vectors that are measured together, wherever they are."""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.devices import HOST, Device
from actstore_analyze.neighbors import Neighbors, firsts, nearest
from actstore_analyze.study.study import Prepared
from actstore_analyze.study.units import Vectors, constant

__all__ = ["InMemory", "Points"]

Numbers = NDArray[np.int64]


class Points(Protocol):
    """Vectors (n, d) that are measured together."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Numbers, /) -> Self: ...

    def prepared(self, how: Prepared) -> Self:
        """As they are measured."""

    def firsts(self) -> Numbers:
        """For each the lowest index of one equal to it (n,); raises ActstoreError for NaN and infinity."""

    @property
    def constant(self) -> bool:
        """Whether all are the same."""

    def nearest(
        self, k: int, *, metric: str, groups: Numbers | None = None, queries: Numbers | None = None
    ) -> Neighbors:
        """See actstore_analyze.neighbors.nearest."""

    def read(self) -> Vectors:
        """All of them."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """Vectors (n, d) that are there; device: where products of them are computed."""

    x: Vectors
    device: Device = HOST

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, chosen: Numbers) -> Self:
        return replace(self, x=self.x[chosen])

    def prepared(self, how: Prepared) -> Self:
        """See Points."""
        return replace(self, x=how.prepared(self.x))

    def firsts(self) -> Numbers:
        """See Points."""
        return firsts(self.x)

    @property
    def constant(self) -> bool:
        """See Points."""
        return constant(self.x)

    def nearest(
        self, k: int, *, metric: str, groups: Numbers | None = None, queries: Numbers | None = None
    ) -> Neighbors:
        """See Points."""
        return nearest(self.x, k, metric=metric, groups=groups, queries=queries, device=self.device)

    def read(self) -> Vectors:
        """See Points."""
        return self.x
