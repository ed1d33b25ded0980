"""Attention columns: what the text of a sample gives to chosen keys, gathered on the device during a forward."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from actstore_extract.families import Batch, Model
from actstore_extract.forward.slots import chosen_slots, role_slots
from actstore_extract.forward.tap import AttentionError, Reader
from actstore_extract.forward.weights import Rows, padded
from actstore_extract.roles import Layout, Role
from actstore_extract.transfers import Landing, sent

__all__ = ["AttentionSelection", "CapturedAttention", "Columns", "Cost", "cost"]

HEADS_DIFFER = "{}: blocks have heads of different number, so no column of each; set per_head = false"


@dataclass(frozen=True)
class AttentionSelection:
    """What to keep of the attention that the text (`Layout.text`) of each sample pays.

    `keys` are roles; one of several positions, such as `image`, is the sum over them: the share of attention that goes
    to the role. `mass` is the attention on every single key up to the end of the image. `seed` draws random roles.
    Text in front of an image cannot see it: its weights there are zeros.
    """

    keys: tuple[Role, ...] = ()
    per_head: bool = False
    mass: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for role in self.keys:
            if role.is_mean:
                raise AttentionError(f"no attention goes to {role.name}, a mean of positions; name the positions' role")
        if len(set(self.keys)) < len(self.keys):
            raise AttentionError(f"attention to {', '.join(role.name for role in self.keys)}: name each role once")
        if not self.keys and not self.mass:
            raise AttentionError("attention to no role, and no mass: nothing is left to keep")


@dataclass(frozen=True)
class CapturedAttention:
    """Attention of one batch on the host, float32; NaN stands where there is nothing.

    `columns` by role name (layers, samples, heads or 1, queries): the weight that each text query gives to the role;
    NaN past a sample's last query, and for a sample without the role. `mass` (layers, samples, keys), or None: weights
    summed over the text queries, mean over heads, on keys 0 to the end of the image; NaN past it.
    Place l of the layers is the attention inside block l, which reads residual point l; point L has no block: NaN.
    """

    columns: dict[str, torch.Tensor]
    mass: torch.Tensor | None


class Cost(NamedTuple):
    """Bytes per sample, float32, with one head or with each head for itself."""

    head_mean: int
    per_head: int


def cost(selection: AttentionSelection, layout: Layout, *, n_layers: int, n_heads: int) -> Cost:
    """What a sample of this layout takes in `n_layers` layers, uncompressed; a mass has no heads.

    >>> layout = Layout(np.arange(6), image=np.array([1, 2]), eoi=3, text=np.array([4, 5]))
    >>> cost(AttentionSelection(keys=(Role("eoi", "eoi"),), mass=True), layout, n_layers=10, n_heads=8)
    Cost(head_mean=240, per_head=800)
    """
    column = 4 * n_layers * len(layout.text) * len(selection.keys)
    mass = 4 * n_layers * _n_keys(layout) if selection.mass else 0
    return Cost(column + mass, column * n_heads + mass)


def _n_keys(layout: Layout) -> int:
    """Keys up to and including the end of the image."""
    return 0 if layout.image_end is None else layout.image_end + 1


class Columns:
    """Where a forward leaves its attention: on the device of the first block read, for all layers."""

    def __init__(self, model: Model, batch: Batch, selection: AttentionSelection, *, n_layers: int) -> None:
        self.selection = selection
        self.n_slots = batch.n_slots
        self.taken = torch.zeros(n_layers, dtype=torch.bool)
        self.rows, self.real = padded(chosen_slots(batch, [layout.text for layout in batch.layouts]))
        roles = [role_slots(batch, [role], selection.seed) for role in selection.keys]
        self.keys = torch.stack(roles, 2).float() if roles else torch.zeros(len(batch), batch.n_slots, 0)
        self.ends, self.inside = padded(chosen_slots(batch, [np.arange(_n_keys(layout)) for layout in batch.layouts]))
        heads = model.n_heads if selection.per_head else 1
        if not heads:
            raise AttentionError(HEADS_DIFFER.format(type(model.decoder).__name__))
        self.columns = torch.full((len(roles), n_layers, len(batch), heads, self.rows.shape[1]), torch.nan)
        self.mass = torch.full((n_layers, *self.ends.shape), torch.nan)

    def reader(self, place: int) -> Reader:
        """What reads one block's attention into a place of the layers."""

        def read(rows: Rows) -> None:
            if rows.n_keys != self.n_slots:
                raise AttentionError(f"{rows.n_keys} keys for {self.n_slots} slots: attention is read without a cache")
            self._follow(rows.device)
            self.taken[place] = True
            self._read(rows, place)

        return read

    def _follow(self, device: torch.device) -> None:
        """Indices go where this block computes; results stay where the first block did."""
        if not self.taken.any():
            self.columns, self.mass = sent(self.columns, device), sent(self.mass, device)
        if self.rows.device != device:
            for name in ("rows", "real", "keys", "ends", "inside"):
                setattr(self, name, sent(getattr(self, name), device))

    def _read(self, rows: Rows, place: int) -> None:
        mass = torch.zeros(len(self.rows), self.n_slots, device=rows.device)
        for start in range(0, self.rows.shape[1], rows.step):
            piece = slice(start, start + rows.step)
            real = self.real[:, piece]
            weights = rows.weights(self.rows[:, piece])
            mean = weights.mean(1, keepdim=True)
            mass += mean[:, 0].masked_fill(~real[..., None], 0).sum(1)
            kept = weights if self.selection.per_head else mean
            if kept.shape[1] != self.columns.shape[3]:
                raise AttentionError(HEADS_DIFFER.format(f"a block of {kept.shape[1]} heads"))
            columns = torch.einsum("shqk,skr->rshq", kept, self.keys.to(kept.dtype))
            self.columns[:, place, :, :, piece] = columns.to(self.columns.device)
        self.mass[place] = mass.gather(1, self.ends).to(self.mass.device)

    def land(self, landing: Landing) -> None:
        """Everything on its way to the host, where `broken` and `result` look at it."""
        for name in ("columns", "mass", "keys", "real", "inside"):
            setattr(self, name, landing.take(getattr(self, name)))

    def broken(self) -> tuple[int, list[int]] | None:
        """The first place with inf or NaN where there should be a weight, and its samples."""
        columns = (~self.columns.isfinite()).any(3).any(0) & self.real
        mass = ~self.mass.isfinite() & self.inside
        bad = (columns.any(2) | mass.any(2)) & self.taken[:, None]
        if not bad.any():
            return None
        place = int(bad.any(1).int().argmax())
        return place, bad[place].nonzero().flatten().tolist()

    def result(self) -> CapturedAttention:
        """Everything, NaN where there is nothing."""
        real = self.real & self.keys.any(1).T[..., None]
        columns = self.columns.where(real[:, None, :, None], torch.nan)
        mass = self.mass.where(self.inside, torch.nan) if self.selection.mass else None
        return CapturedAttention({role.name: columns[i] for i, role in enumerate(self.selection.keys)}, mass)
