"""Whether a sample in a batch is what it is alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from actstore_extract.check.noise import Limit, distance
from actstore_extract.check.pictures import of_noise
from actstore_extract.check.view import View, some, view, views
from actstore_extract.families import Batching, Encoded, Model, Prompt, SampleError
from actstore_extract.forward.generation import first_logits

__all__ = ["ALONE", "Shared", "shared"]

ALONE = "samples run one at a time"
_MORE = " a a a"  # makes a prompt longer
_NO_ROOM = "not enough memory for two"
_CLEARLY = 3


@dataclass(frozen=True)
class Shared:
    """How samples may share a forward, `why` not padded, and what was seen of each way: a difference, or a reason."""

    batches: Batching
    why: str | None
    seen: dict[str, float | str]


def shared(
    model: Model,
    prompt: Prompt,
    encoded: Encoded,
    alone: View,
    limit: Limit,
    batch_size: int,
    *,
    generates: bool,
) -> Shared:
    """The last of `batch_size` samples is held against itself alone, and against the first of the same forward, the
    same prompt with more at its end, where rounding hides less; then the same behind itself as it is. At last,
    behind the same prompt with another picture: in some models a sample sees those of others."""
    if batch_size < 2:
        return Shared("padded", None, {"batches": ALONE})
    try_behind = partial(_behind, model, last=encoded, alone=alone, limit=limit, n=batch_size, generates=generates)
    found = _of_words(model, _longer(model, prompt, encoded), encoded, try_behind)
    other = None if found.batches == "of one" else _other(model, prompt, encoded)
    if other is None:
        return found
    beside = try_behind(other)
    if beside.is_allowed or beside.figure == _NO_ROOM:
        return found
    seen = {**found.seen, "behind another picture": beside.figure}
    return Shared("of one", _why(model, "with another picture in a batch", beside), seen)


def _of_words(
    model: Model, first: Encoded | None, encoded: Encoded, try_behind: "Callable[[Encoded], _Apart]"
) -> Shared:
    """How samples of one picture may share a forward."""
    if first is None:
        return Shared("padded", None, {"padded": "its prompt cannot be made longer"})
    padded = try_behind(first)
    if padded.is_near or padded.figure == _NO_ROOM:
        return Shared("padded", None, {"padded": padded.figure})
    alike = try_behind(encoded)
    seen = {"padded": padded.figure, "of one length": alike.figure}
    if padded.is_allowed and not alike.is_clearly_nearer(padded):
        return Shared("padded", None, seen)
    return Shared("of one length" if alike.is_allowed else "of one", _why(model, "padded in a batch", padded), seen)


def _why(model: Model, how: str, apart: "_Apart") -> str:
    figure = apart.figure if isinstance(apart.figure, str) else f"relative difference {apart.figure:.2g}"
    return f"{how} a sample of {type(model.module).__name__} is not what it is alone: {figure}"


@dataclass(frozen=True)
class _Apart:
    """How far a sample in a batch is from what it should be, or what went wrong; whether it is as near as two kernels
    are, and whether it may be so far at all."""

    figure: float | str
    is_near: bool = False
    is_allowed: bool = False

    def is_clearly_nearer(self, other: "_Apart") -> bool:
        """Whether it is no rounding that keeps the other one apart."""
        figures = self.figure, other.figure
        return (
            not isinstance(figures[0], str) and not isinstance(figures[1], str) and _CLEARLY * figures[0] < figures[1]
        )


def _longer(model: Model, prompt: Prompt, encoded: Encoded) -> Encoded | None:
    """The sample with more text at its end; None where there is none with the same picture in the same form."""
    try:
        found = model.encode(prompt._replace(text=prompt.text + _MORE))
    except SampleError:
        return None
    return found if found.length > encoded.length and model.kind.shape(found) == model.kind.shape(encoded) else None


def _other(model: Model, prompt: Prompt, encoded: Encoded) -> Encoded | None:
    """The sample with another picture: what counts in the pictures of a batch finds its own, or that one's. None where
    there is none, or none in the same form."""
    if not prompt.images:
        return None
    try:
        found = model.encode(of_noise(prompt))
    except SampleError:
        return None
    return found if model.kind.shape(found) == model.kind.shape(encoded) else None


def _behind(
    model: Model, first: Encoded, *, last: Encoded, alone: View, limit: Limit, n: int, generates: bool
) -> _Apart:
    """The last of n samples, behind another; of fewer where there is no memory for so many."""
    samples = [first, *[last] * (n - 1)]
    try:
        return _apart(model, samples, alone, limit, generates=generates)
    except torch.OutOfMemoryError:
        pass  # what failed is held in memory until the error is let go of
    except Exception as error:  # whatever it is, it is of the batch: alone the sample ran
        return _Apart(" ".join(f"{type(error).__name__}: {error}".split())[:200])
    torch.cuda.empty_cache()
    if n < 4:
        return _Apart(_NO_ROOM)
    return _behind(model, first, last=last, alone=alone, limit=limit, n=n // 2, generates=generates)


def _apart(model: Model, samples: list[Encoded], alone: View, limit: Limit, *, generates: bool) -> _Apart:
    """The last of the samples as the forward of a batch has it, and the first token that is generated after it."""
    n, at = len(samples), some(samples[-1].length)
    one, last = views(model, model.collate(samples), [0, n - 1], at)
    far, beside = distance(last, alone), 0.0
    if _goes_on(model, samples[0], samples[-1], alone, limit):
        beside = distance(last, replace(one, logits=last.logits))
    if generates:
        logits = first_logits(model, model.collate(samples, left=True))
        far = max(far, distance(replace(alone, logits=logits[-1].float().cpu()), alone))
    furthest = max(far, beside)
    return _Apart(furthest, furthest <= limit.strict, far <= limit.allowed and beside <= limit.strict)


def _goes_on(model: Model, longer: Encoded, encoded: Encoded, alone: View, limit: Limit) -> bool:
    """Whether the longer sample is the other one, and then more, which changes nothing in front of it: a model whose
    text sees what follows is another."""
    n = encoded.length
    if not np.array_equal(longer.layout.token_ids[:n], encoded.layout.token_ids):
        return False
    seen = view(model, model.collate([longer]), at=some(n))
    return distance(replace(seen, logits=alone.logits), alone) <= limit.allowed
