"""Keys and values of chosen rows, gathered on the device as the blocks' attention receives them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from actstore_extract.families import Batch
from actstore_extract.forward.tap import AttentionError, Reader
from actstore_extract.forward.weights import Rows
from actstore_extract.transfers import sent

__all__ = ["KeysValues"]

KINDS = ("keys", "values")


class KeysValues:
    """Where a forward leaves the keys and values of some slots of each sample: on the device of the first block read.

    Keys are as attention uses them, after their norm and rotation, and not repeated for the queries' heads.
    """

    def __init__(self, batch: Batch, at: Sequence[NDArray[np.int64]], *, n_blocks: int) -> None:
        self.n_slots, self.n_blocks = batch.n_slots, n_blocks
        self.owner = np.repeat(np.arange(len(batch)), [len(each) for each in at])
        slots = [each + offset for each, offset in zip(at, batch.offset, strict=True)]
        self.samples = torch.from_numpy(self.owner)
        self.slots = torch.from_numpy(np.concatenate([*slots, np.empty(0, np.int64)]))
        self.heads: dict[str, torch.Size] = {}
        self.kept: dict[str, torch.Tensor] = {}  # (blocks, rows, key heads * head width)

    def reader(self, place: int) -> Reader:
        """What gathers one block's keys and values."""

        def read(rows: Rows) -> None:
            if rows.n_keys != self.n_slots:
                raise AttentionError(f"{rows.n_keys} keys for {self.n_slots} slots: they are read without a cache")
            for kind, x in zip(KINDS, (rows.key, rows.value), strict=True):
                self._read(kind, x.transpose(1, 2), place)

        return read

    def _read(self, kind: str, x: torch.Tensor, place: int) -> None:
        """Gather from x (samples, slots, key heads, head width)."""
        heads = self.heads.setdefault(kind, x.shape[2:])
        if heads != x.shape[2:]:
            raise AttentionError(
                f"block {place} has {kind} of {x.shape[2]} heads of width {x.shape[3]}, those before it {heads[0]} of "
                f"width {heads[1]}: keys and values are kept of models whose blocks are alike"
            )
        if kind not in self.kept:
            self.kept[kind] = x.new_empty(self.n_blocks, len(self.slots), heads.numel())
        if self.slots.device != x.device:  # they stay there: a copy for each block would stall the device
            self.samples, self.slots = sent(self.samples, x.device), sent(self.slots, x.device)
        self.kept[kind][place] = x[self.samples, self.slots].flatten(1)
