"""Steering a model: forwards in which a vector is added to the residual stream, or put in its place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from actstore_extract.families import Batch, Model
from actstore_extract.forward.points import at_point, check_writable, prompts, residual
from actstore_extract.forward.slots import role_slots
from actstore_extract.interventions.conditions import ConditionError, Steer
from actstore_extract.roles import parse_role

__all__ = ["check_width", "steered"]


def check_width(name: str, steer: Steer, d_model: int) -> None:
    """Raise ConditionError for a vector that is not as wide as the model."""
    if len(steer.vector) != d_model:
        raise ConditionError(
            f"condition '{name}': vectors of {len(steer.vector)} numbers in {' and '.join(steer.files)}, but this "
            f"model's residual stream has {d_model}"
        )


@contextmanager
def steered(model: Model, batch: Batch, steer: Steer, *, seed: int = 0) -> Iterator[None]:
    """Forwards of the batch run steered at the role's positions of the prompt; also at tokens generated, if it says so.

    What the block of the layer reads is changed (at L: what the final norm reads).
    """
    at = role_slots(batch, [parse_role(steer.role)], seed)

    def change(x: torch.Tensor) -> torch.Tensor | None:
        if not prompt[0] and not steer.generated:
            return None
        where = at if prompt[0] else torch.ones(x.shape[:2], dtype=torch.bool)
        x = residual(model, x, (len(where), where.shape[1]))
        vector = steer.scale * torch.from_numpy(steer.vector).to(x.device)
        new = x + vector.to(x.dtype) if steer.mode == "add" else vector.to(x.dtype).expand_as(x)
        return torch.where(where.to(x.device)[..., None], new, x)

    check_writable(model)
    with prompts(model) as prompt, at_point(model, "residual", steer.layer, change):
        yield
