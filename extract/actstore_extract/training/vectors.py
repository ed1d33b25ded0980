"""Data sets of torch over stored vectors: in memory, or read part by part.

Workers of a DataLoader import this file: neither DuckDB nor polars, unless they read from a store.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from actstore.errors import ActstoreError
from actstore.format.given import whole

if TYPE_CHECKING:
    from actstore.store import Store

__all__ = ["ROWS_AT_A_TIME", "Column", "Source", "Streamed", "Vectors"]

Item = dict[str, Any]
Column = torch.Tensor | NDArray[np.generic]  # numbers; text
ROWS_AT_A_TIME = 16_384
BLOCKS = 8  # from as many places come the rows that are in a buffer


@dataclass(frozen=True)
class Source:
    """Which vectors: row ids (n,) at a layer, or at several."""

    row_ids: NDArray[np.int64]
    layer: int | None
    layers: Sequence[int] | None

    def read(self, store: "Store", places: NDArray[np.int64]) -> torch.Tensor:
        """Vectors (n, d) or (n, L, d) of the rows at these places, in the number type that they are stored in."""
        x = store.residual(self.row_ids[places], self.layer, layers=self.layers)
        if (lost := np.isnan(x).reshape(len(x), -1).any(1)).any():
            raise ActstoreError(
                f"the vector of row_id {self.row_ids[places][lost][0]} is NaN; leave such rows out, or choose later "
                "layers: some models take the image in later, and hold nothing of it before"
            )
        return torch.from_numpy(x).to(getattr(torch, store.header.dtype))


class Vectors(Dataset[Item]):
    """Items {"x": (d,) or (L, d), "row_id": (), and the columns}, in memory: `x` holds all vectors (n, ...)."""

    def __init__(self, store: "Store", source: Source, columns: Mapping[str, Column]) -> None:
        n = len(source.row_ids)
        one = source.read(store, np.zeros(1, np.int64))[0]
        stream = "read them as they are used: store.torch.stream(...)"
        store.limits.check_array(n * one.nbytes, f"{n} vectors", stream)
        self.x = torch.empty((n, *one.shape), dtype=one.dtype)
        self.columns = {"row_id": torch.from_numpy(source.row_ids.copy()), **columns}
        order = np.argsort(source.row_ids, kind="stable")  # each chunk is read once
        for start in range(0, len(order), ROWS_AT_A_TIME):
            places = order[start : start + ROWS_AT_A_TIME]
            self.x[torch.from_numpy(places)] = source.read(store, places)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Item:
        return {"x": self.x[index], **{name: column[index] for name, column in self.columns.items()}}


class Streamed(IterableDataset[Item]):
    """Items as those of `Vectors`; each worker of a DataLoader reads its own share of the rows.

    Every epoch has the order of the first unless `set_epoch` is called before it, as DistributedSampler has it.
    """

    def __init__(
        self, store: "Store", source: Source, columns: Mapping[str, Column], seed: int | None, buffer: int
    ) -> None:
        self.source, self.seed, self.buffer = source, seed, buffer
        self._store = pickle.dumps(store)  # an open one, at the end of a worker, has DuckDB complain
        self.columns = {"row_id": torch.from_numpy(source.row_ids.copy()), **columns}
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # workers that persist see it change

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next epoch."""
        self._epoch.fill_(whole(epoch, "epoch", least=0))

    def __iter__(self) -> Iterator[Item]:
        store: Store = pickle.loads(self._store)  # noqa: S301  (our own)
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        order = np.argsort(self.source.row_ids, kind="stable")
        size = max(1, self.buffer // BLOCKS)
        blocks = [order[start : start + size] for start in range(0, len(order), size)]
        if self.seed is not None:
            now = np.random.default_rng([self.seed, int(self._epoch)])
            blocks = [blocks[place] for place in now.permutation(len(blocks))]
        mine = blocks[first::step]
        for start in range(0, len(mine), BLOCKS):
            places = np.concatenate(mine[start : start + BLOCKS])
            x = self.source.read(store, places)
            within = np.arange(len(places)) if self.seed is None else now.permutation(len(places))
            for place in within:
                of_row = {name: column[places[place]] for name, column in self.columns.items()}
                yield {"x": x[place], **of_row}
