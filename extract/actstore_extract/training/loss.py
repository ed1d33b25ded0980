"""The loss: of the next token, on the spans that are answers, and nowhere else."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from actstore_extract.families import Model
from actstore_extract.training.examples import Example

__all__ = ["losses", "weights"]


def losses(model: Model, examples: Sequence[Example]) -> torch.Tensor:
    """The loss (n,) of each of the examples, in float32: mean over the tokens of a span, then over its spans.

    What always holds for the model does here, too.
    """
    batch = model.collate([example.encoded for example in examples])
    inputs = batch.inputs
    weight = weights([example.spans for example in examples], batch.n_slots).to(model.device)
    learned = weight > 0
    targets = _targets(model, inputs, learned)
    first = int(learned.any(0).nonzero()[0])
    kept = {"logits_to_keep": batch.n_slots - first + 1} if _keeps(model) else {}
    with model.held(batch), _in_one_piece(model.head):
        logits = model.module(**inputs, **kept, use_cache=False).logits[:, -(batch.n_slots - first + 1) : -1]
    learned, weight = learned[:, first:], weight[:, first:]
    each = torch.zeros_like(weight)
    each[learned] = F.cross_entropy(logits[learned].float(), targets[:, first:][learned], reduction="none")
    return (each * weight).sum(1)


@contextmanager
def _in_one_piece(head: nn.Module | None) -> Iterator[None]:
    """Inside, a frozen head takes what it reads in one piece: of a slice torch multiplies each sample by a copy of its
    weights, which takes most of a step on CPUs."""
    hook = head and head.register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:]))
    try:
        yield
    finally:
        if hook:
            hook.remove()


def weights(spans: Sequence[Sequence[tuple[int, int]]], n_slots: int) -> torch.Tensor:
    """What the loss of each token (n, slots) counts: every span of an example as much as every other.

    >>> weights([[(1, 3), (4, 5)], [(2, 4)]], 5)
    tensor([[0.0000, 0.2500, 0.2500, 0.0000, 0.5000],
            [0.0000, 0.0000, 0.5000, 0.5000, 0.0000]])
    """
    found = torch.zeros(len(spans), n_slots)
    for row, own in zip(found, spans, strict=True):
        for start, stop in own:
            row[start:stop] = 1 / (len(own) * (stop - start))
    return found


def _targets(model: Model, inputs: dict[str, torch.Tensor], learned: torch.Tensor) -> torch.Tensor:
    """The tokens (n, slots) to be said; of an image in an answer, those of the image."""
    ids = inputs["input_ids"]
    if model.image_token_id is None:
        return ids
    holders = ids.eq(model.image_token_id)
    if not (holders & learned).any():
        return ids
    drawn = model.kind.image_words(model, inputs)
    assert drawn is not None
    return ids.masked_scatter(holders, drawn.to(ids.dtype))


def _keeps(model: Model) -> bool:
    return "logits_to_keep" in inspect.signature(type(model.module).forward).parameters
