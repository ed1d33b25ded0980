"""Stored: vectors that are measured together and stay in the store, read by blocks by those who do the work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.store import Store
from actstore_analyze.devices import HOST, Device
from actstore_analyze.neighbors import Neighbors, parse
from actstore_analyze.neighbors.blocks import Block, search_blocks
from actstore_analyze.neighbors.exact import blocks
from actstore_analyze.neighbors.identical import prints
from actstore_analyze.neighbors.measure import neighbors_of
from actstore_analyze.neighbors.points import check_directed, check_finite, scale_of, scaled, tie_of
from actstore_analyze.neighbors.tiles import tiler_on
from actstore_analyze.study import held
from actstore_analyze.study.study import Prepared, Study
from actstore_analyze.study.units import Vectors

__all__ = ["Placed", "Stored", "are_many"]

LARGEST = 1 << 30  # bytes of vectors that are measured together, beyond which they are read by blocks
BLOCK_BYTES = 1 << 26  # of the vectors of a block, of which a worker has two
Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


def are_many(n: int, width: int) -> bool:
    """Whether n vectors of a width are read by blocks; who does the work does not matter."""
    return n * width * 4 > LARGEST


@dataclass(frozen=True, eq=False)
class Placed:
    """Rows of a store, by their ids (n,), at a layer, and how their vectors are prepared; mean: (d,) of these."""

    rows: Numbers
    layer: int
    how: Prepared | None = None
    mean: Floats | None = None

    def read(self, store: Store, chosen: Numbers | slice) -> Vectors:
        """The vectors (m, d) of some of them."""
        x = held.residual(store, self.rows[chosen], self.layer)
        return x if self.how is None else self.how.prepared(x, self.mean)

    def total(self, store: Store, step: int) -> pl.DataFrame:
        """The sums of their dimensions, read `step` at a time and added as a mean of all does."""
        sums = np.zeros((1, store.header.d_model))
        for some in blocks(len(self.rows), 1, step):
            sums = np.concatenate([sums, self.read(store, some)]).sum(axis=0, keepdims=True)
        return pl.DataFrame({"sum": sums[0]})

    def looked_at(self, store: Store, asked: tuple[slice, str]) -> pl.DataFrame:
        """Of some of them as points of a metric: whether they are finite, their largest values and their prints, which
        are empty where one has none.
        """
        some, metric = asked
        x = self.read(store, some)
        finite, largest = np.isfinite(x).all(axis=1), np.abs(x).max(axis=1, initial=0).astype(np.float64)
        is_sound = finite.all() and (metric == "euclidean" or largest.all())
        found = prints(parse(x, metric)) if is_sound else [b""] * len(x)
        return pl.DataFrame(
            {"finite": finite, "largest": largest, "print": found}, schema_overrides={"print": pl.Binary}
        )


@dataclass(frozen=True, eq=False)
class Search:
    """What is asked of each block of queries; groups: (n,), those of one are not each other's neighbours."""

    placed: Placed
    k: int
    metric: str
    scale: float
    step: int
    device: Device
    groups: Numbers | None = None

    def found(self, store: Store, queries: Numbers) -> pl.DataFrame:
        """Distances and indices of the neighbours of the queries (m,), by rows."""
        numbers = np.arange(len(self.placed.rows))
        base = (self._block(store, numbers[some]) for some in blocks(len(numbers), 1, self.step))
        asked, tie = self._block(store, queries), tie_of(self.metric)
        distances, indices = search_blocks(asked, base, self.k, tie, tiler_on(self.device))
        return pl.DataFrame({"distances": distances, "indices": indices})

    def _block(self, store: Store, numbers: Numbers) -> Block:
        points = scaled(parse(self.placed.read(store, numbers), self.metric), self.scale)
        return Block(points, numbers, numbers if self.groups is None else self.groups[numbers])


@dataclass(frozen=True, eq=False)
class Stored:
    """Vectors (n, d) that stay in the store: who does the work reads them by blocks, two at a time, of a fixed size."""

    store: Store
    by: Study
    placed: Placed
    device: Device = HOST

    def __len__(self) -> int:
        return len(self.placed.rows)

    def __getitem__(self, chosen: Numbers) -> Self:
        return replace(self, placed=replace(self.placed, rows=self.placed.rows[chosen]))

    def prepared(self, how: Prepared) -> Self:
        """See Points."""
        mean = None
        if how.center:
            (total,) = self.by.mapped(self.store, self.placed.total, [self.step])
            mean = total["sum"].to_numpy() / len(self)
        return replace(self, placed=replace(self.placed, how=how, mean=mean))

    def firsts(self) -> Numbers:
        """See Points."""
        return self._seen.owners()

    @property
    def constant(self) -> bool:
        """See Points."""
        return not self.firsts().any()

    def nearest(
        self, k: int, *, metric: str, groups: Numbers | None = None, queries: Numbers | None = None
    ) -> Neighbors:
        """See Points."""
        seen = self._seen if metric == "euclidean" else _Seen(self, metric)
        return neighbors_of(seen, k, metric=metric, groups=groups, queries=queries)

    def read(self) -> Vectors:
        """See Points."""
        return self.placed.read(self.store, slice(None))

    def mapped(self, function: Callable[[Store, Any], pl.DataFrame], tasks: Sequence[Any]) -> pl.DataFrame:
        """The rows that a function has of each of the tasks, by who does the work."""
        return pl.concat(self.by.mapped(self.store, function, tasks))

    @property
    def step(self) -> int:
        """Rows of a block."""
        return max(1, BLOCK_BYTES // (4 * self.store.header.d_model))

    @cached_property
    def _seen(self) -> "_Seen":
        return _Seen(self, "euclidean")


class _Seen:
    """Vectors of a store as they are searched (neighbors.measure.Searchable): finite, which of them are identical."""

    def __init__(self, stored: Stored, metric: str) -> None:
        """Raise ActstoreError for NaN and infinity, UndefinedError for a zero vector where directions are asked for."""
        self._stored, self._metric = stored, metric
        tasks = [(some, metric) for some in blocks(len(stored), 1, stored.step)]
        found = stored.mapped(stored.placed.looked_at, tasks)
        check_finite(found["finite"].to_numpy())
        if metric != "euclidean":
            check_directed(found["largest"].to_numpy())
        self.scale = scale_of(found["largest"].to_numpy().max()) if metric == "euclidean" else 1.0
        self._owners = _owners(found["print"])

    def __len__(self) -> int:
        return len(self._stored)

    def owners(self) -> Numbers:
        """See Searchable."""
        return self._owners

    def search(self, distinct: Numbers, rows: Numbers, k: int) -> Neighbors:
        """See Searchable."""
        return Neighbors(*self._found(self._stored[distinct].placed, rows, k), rows)

    def scan(self, rows: Numbers, k: int, groups: Numbers) -> tuple[Floats, Numbers]:
        """See Searchable."""
        return self._found(self._stored.placed, rows, k, groups)

    def _found(self, placed: Placed, rows: Numbers, k: int, groups: Numbers | None = None) -> tuple[Floats, Numbers]:
        step = self._stored.step
        asked = Search(placed, k, self._metric, self.scale, step, self._stored.device, groups)
        if k == 0:
            return np.empty((len(rows), 0)), np.empty((len(rows), 0), np.int64)
        found = self._stored.mapped(asked.found, [rows[some] for some in blocks(len(rows), 1, step)])
        return found["distances"].to_numpy(), found["indices"].to_numpy()


def _owners(prints: pl.Series) -> Numbers:
    """For each the index of the first that is equal."""
    found = pl.DataFrame({"print": prints, "index": np.arange(len(prints))})
    return found.select(pl.col("index").first().over("print")).to_series().to_numpy()
