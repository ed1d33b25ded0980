"""Whether a sample in a batch is what it is alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from actstore_extract.check.noise import Limit, distance
from actstore_extract.check.pictures import of_noise
from actstore_extract.check.view import View, some, view, views
from actstore_extract.families import Batching, Encoded, Model, Prompt, SampleError
from actstore_extract.forward.generation import first_logits

__all__ = ["ALONE", "Alone", "Shared", "shared"]

ALONE = "samples run one at a time"
_MORE = " a a a"  # makes a prompt longer
_NO_ROOM = "not enough memory for two"
_CLEARLY = 3


class Alone(NamedTuple):
    """A sample, and what a forward of it alone shows."""

    encoded: Encoded
    view: View


@dataclass(frozen=True)
class Shared:
    """How samples may share a forward, `why` not padded, and what was seen of each way: a difference, or a reason."""

    batches: Batching
    why: str | None
    seen: dict[str, float | str]


def shared(
    model: Model,
    prompt: Prompt,
    sample: Alone,
    limit: Limit,
    batch_size: int,
    *,
    generates: bool,
    others: Sequence[Alone] = (),
) -> Shared:
    """The last of `batch_size` samples is held against itself alone, and against the first of the same forward, the
    same prompt with more at its end, where rounding hides less; then the same behind itself as it is. At last,
    behind the same prompt with another picture: in some models a sample sees those of others.

    `others` run with it, since what padding does may depend on the words; they count beyond what rounding may be.
    """
    if batch_size < 2:
        return Shared("padded", None, {"batches": ALONE})
    encoded = sample.encoded
    try_behind = partial(_behind, model, limit=limit, n=batch_size, generates=generates)
    found = _of_words(model, _longer(model, prompt, encoded), [*others, sample], try_behind)
    other = None if found.batches == "of one" else _other(model, prompt, encoded)
    if other is None:
        return found
    beside = try_behind(other, [sample])
    if beside.is_allowed or beside.figure == _NO_ROOM:
        return found
    seen = {**found.seen, "behind another picture": beside.figure}
    return Shared("of one", _why(model, "with another picture in a batch", beside), seen)


def _of_words(
    model: Model,
    first: Encoded | None,
    behind: Sequence[Alone],
    try_behind: "Callable[[Encoded, Sequence[Alone]], _Apart]",
) -> Shared:
    """How samples of one picture may share a forward, the last of them above all."""
    if first is None:
        return Shared("padded", None, {"padded": "its prompt cannot be made longer"})
    padded = try_behind(first, behind)
    if padded.is_near or padded.figure == _NO_ROOM:
        return Shared("padded", None, {"padded": padded.figure})
    alike = try_behind(behind[-1].encoded, behind[-1:])
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


def _behind(model: Model, first: Encoded, behind: Sequence[Alone], *, limit: Limit, n: int, generates: bool) -> _Apart:
    """Samples behind another, n in a forward, the last of them as often as there is room; fewer where there is no
    memory for so many."""
    each, last = n - 1, behind[-1]
    pieces = [behind[i : i + each] for i in range(0, len(behind), each)]
    try:
        found = [_apart(model, first, [*one, *[last] * (each - len(one))], last, limit, generates) for one in pieces]
    except torch.OutOfMemoryError:
        pass  # what failed is held in memory until the error is let go of
    except Exception as error:  # whatever it is, it is of the batch: alone the sample ran
        return _Apart(" ".join(f"{type(error).__name__}: {error}".split())[:200])
    else:
        return max(found, key=lambda one: float(one.figure))
    torch.cuda.empty_cache()
    if n < 4:
        return _Apart(_NO_ROOM)
    return _behind(model, first, behind, limit=limit, n=n // 2, generates=generates)


def _apart(model: Model, first: Encoded, behind: Sequence[Alone], last: Alone, limit: Limit, generates: bool) -> _Apart:
    """The samples behind the first as the forward of a batch has them, and the first tokens generated after them."""
    samples = [first, *(one.encoded for one in behind)]
    places = {id(one): i for i, one in enumerate(behind, 1)}  # of copies the last
    at = {i: some(samples[i].length) for i in places.values()}
    goes_on = id(last) in places and _goes_on(model, first, last, limit)
    start = {0: some(last.encoded.length)} if goes_on else {}
    found = dict(zip(start | at, views(model, model.collate(samples), start | at), strict=True))
    far = {i: distance(found[i], behind[i - 1].view) for i in at}
    if generates:
        logits = first_logits(model, model.collate(samples, left=True)).float().cpu()
        for i in at:
            alone = behind[i - 1].view
            far[i] = max(far[i], distance(replace(alone, logits=logits[i]), alone))
    own, beside = far.pop(places.get(id(last), 0), 0.0), 0.0
    if goes_on:
        mine = found[places[id(last)]]
        beside = distance(mine, replace(found[0], logits=mine.logits))
    beyond = [x for x in far.values() if x > limit.allowed]
    furthest = max(own, beside, *beyond)
    return _Apart(furthest, furthest <= limit.strict, not beyond and own <= limit.allowed and beside <= limit.strict)


def _goes_on(model: Model, longer: Encoded, sample: Alone, limit: Limit) -> bool:
    """Whether the longer sample is the other one, and then more, which changes nothing in front of it: a model whose
    text sees what follows is another."""
    n = sample.encoded.length
    if not np.array_equal(longer.layout.token_ids[:n], sample.encoded.layout.token_ids):
        return False
    seen = view(model, model.collate([longer]), at=some(n))
    return distance(replace(seen, logits=sample.view.logits), sample.view) <= limit.allowed
