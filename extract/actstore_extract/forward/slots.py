"""Slots: where roles and positions of samples are in a padded batch, and which of them a forward sees."""

from collections.abc import Sequence

import torch

from actstore_extract.families import Batch
from actstore_extract.roles import Positions, Role, positions

__all__ = ["at_slots", "chosen_slots", "role_slots"]


def role_slots(batch: Batch, roles: Sequence[Role], seed: int) -> torch.Tensor:
    """Which slots (samples, slots) of the batch the roles name; none in a sample without them."""
    chosen = torch.zeros(len(batch), batch.n_slots, dtype=torch.bool)
    for i, (sample_id, layout) in enumerate(zip(batch.sample_ids, batch.layouts, strict=True)):
        for role in roles:
            at = positions(role, layout, seed=seed, sample_id=sample_id)
            if at is not None:
                chosen[i, at + int(batch.offset[i])] = True
    return chosen


def chosen_slots(batch: Batch, at: Sequence[Positions]) -> torch.Tensor:
    """Which slots (samples, slots) hold these positions of each sample."""
    chosen = torch.zeros(len(batch), batch.n_slots, dtype=torch.bool)
    for i, here in enumerate(at):
        chosen[i, here + int(batch.offset[i])] = True
    return chosen


def at_slots(chosen: torch.Tensor, slots: torch.Tensor, *, beyond: bool) -> torch.Tensor:
    """`chosen` (samples, slots) at these slots; `beyond` for slots after the prompt."""
    n_slots = chosen.shape[1]
    inside = chosen[:, slots.clamp(max=n_slots - 1)]
    return torch.where(slots < n_slots, inside, torch.tensor(beyond))
