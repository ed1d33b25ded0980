"""Views: what a forward shows of a sample, gathered by hooks of its own."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from actstore_extract.check.errors import CheckError
from actstore_extract.families import Batch, Model
from actstore_extract.families.anatomy import stream
from actstore_extract.forward.capture import last_tokens_only
from actstore_extract.forward.points import at_point
from actstore_extract.roles import Positions

__all__ = ["View", "some", "view", "views"]

_POSITIONS = 64  # that are compared, of a sample


@dataclass(frozen=True)
class View:
    """Residual streams (points, positions, d), logits (vocabulary,) after the last token: float32, on the host."""

    points: torch.Tensor
    logits: torch.Tensor


def some(n: int) -> Positions:
    """Positions of a sample of n tokens that stand for all of them: spread evenly, the first and the last among them.

    >>> some(3).tolist(), len(some(1000)), int(some(1000)[-1])
    ([0, 1, 2], 64, 999)
    """
    return np.unique(np.linspace(0, n - 1, min(n, _POSITIONS)).round().astype(np.int64))


def view(model: Model, batch: Batch, *, layers: Sequence[int] | None = None, at: Positions | None = None) -> View:
    """One forward, as the first sample of the batch has it, at positions `at` or else at `some` of them."""
    (found,) = views(model, batch, {0: some(batch.layouts[0].length) if at is None else at}, layers=layers)
    return found


def views(
    model: Model, batch: Batch, at: Mapping[int, Positions], *, layers: Sequence[int] | None = None
) -> list[View]:
    """One forward, as samples of the batch have it, each at positions of its own, at residual points `layers` (None:
    all).

    CheckError where a point's input is not (samples, slots, d), or comes never or more than once.
    """
    name = type(model.module).__name__
    wanted = range(model.n_layers + 1) if layers is None else layers
    shape = (len(batch), batch.n_slots, model.d_model)
    rows = torch.from_numpy(np.concatenate([batch.rows(sample, own) for sample, own in at.items()]))
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in wanted}
    with ExitStack() as hooks:
        for layer in wanted:

            def keep(x: torch.Tensor, layer: int = layer) -> None:
                x = stream(model.decoder.config, x)
                if x.shape != shape:
                    raise CheckError(
                        f"residual point {layer} of {name} is {tuple(x.shape)}, not (samples, tokens, d) = {shape}: "
                        "rows would be stored as those of other tokens; this architecture needs a family of its own"
                    )
                kept = x.reshape(-1, x.shape[-1])[rows.to(x.device)]
                found[layer].append(kept.float().cpu())

            hooks.enter_context(at_point(model, "residual", layer, keep))
        if len(batch) > 1:  # of one sample alone the head sees all tokens, as it does without us
            hooks.enter_context(last_tokens_only(model, batch))
        logits = model(batch).logits
    for layer, seen in found.items():
        if len(seen) != 1:
            raise CheckError(
                f"residual point {layer} of {name} is seen {len(seen)} times in a forward, not once: which of them is "
                "the stream there is not known; this architecture needs a family of its own"
            )
    assert logits is not None
    last = -1 if len(batch) > 1 else int(batch.offset[0]) + batch.layouts[0].length - 1
    each = [len(own) for own in at.values()]
    streams = torch.split(torch.stack([seen for (seen,) in found.values()]), each, dim=1)
    return [View(own, logits[sample, last].float().cpu()) for sample, own in zip(at, streams, strict=True)]
