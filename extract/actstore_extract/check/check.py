"""The self-check of a run: a few forwards of one sample, before anything is stored.

What is compared should be the same in any model, and was not in some: a forward whose attention is read, one without
the position ids that a batch is given, the first token of plain generation, a sample in a batch.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from actstore.errors import ActstoreError
from actstore_extract.check.batches import Alone, Shared, shared
from actstore_extract.check.errors import CheckError
from actstore_extract.check.found import Found
from actstore_extract.check.noise import distance, limit
from actstore_extract.check.pictures import check_pictures
from actstore_extract.check.view import View, some, view
from actstore_extract.families import Model, Prompt
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.forward.generation import first_logits
from actstore_extract.forward.masked import masked
from actstore_extract.forward.slots import chosen_slots
from actstore_extract.forward.tap import attention_modules, tapped
from actstore_extract.forward.threads import fitting_threads
from actstore_extract.forward.weights import Edit, Mode

__all__ = ["Asked", "batching", "check"]

_OTHERS = 3  # samples that run in a batch with the one that is looked at
_WAYS: tuple[tuple[Callable[..., AbstractContextManager[None]], Mode], ...] = ((masked, "pre"), (tapped, "post"))


@dataclass(frozen=True)
class Asked:
    """What a run does with its model: `batch_size` samples in a forward, whose attention it `reads` or `blocks`; and
    whether it `generates`."""

    batch_size: int
    reads: bool = False
    blocks: bool = False
    generates: bool = False


def check(model: Model, prompts: Iterable[Prompt], asked: Asked) -> Found:
    """What a run over such prompts may rely on; the first that can be run is looked at.

    Raises CheckError, with the figure and what to do, where something would be stored that is not what it is called.
    """
    name, trial = type(model.module).__name__, None
    try:
        with fitting_threads(model):
            trial = _trial(model, prompts, asked)
            if isinstance(trial, str):
                return Found(left_out={"everything": f"no sample can be run ({trial})"})
            return trial.found()
    except CheckError as error:
        on = f" on {trial.encoded.sample_id}" if isinstance(trial, _Trial) else ""
        raise CheckError(
            f"self-check of {name}{on}: {error}. Nothing was stored; check = false (--no-check) runs without this check"
        ) from None


def batching(model: Model, prompts: Iterable[Prompt], batch_size: int) -> Found:
    """How samples of such prompts may share a forward, and nothing else; of one where that cannot be seen."""
    try:
        with fitting_threads(model):
            trial = _trial(model, prompts, Asked(batch_size))
            if isinstance(trial, str):
                return Found(batches="of one", why=f"no sample can be run ({trial})")
            seen = trial.shared()
            return Found(batches=seen.batches, why=seen.why)
    except CheckError as error:
        return Found(batches="of one", why=str(error))


def _trial(model: Model, prompts: Iterable[Prompt], asked: Asked) -> "_Trial | str":
    """The first sample that can be run, or why none can be."""
    why, waiting = "there is none", iter(prompts)
    for prompt in waiting:
        found = _alone(model, prompt)
        if isinstance(found, Alone):
            return _Trial(model, prompt, found, waiting, asked)
        why = found
    return why


def _alone(model: Model, prompt: Prompt) -> "Alone | str":
    """A sample alone, or why it cannot be run: the run says so of each."""
    try:
        encoded = model.encode(prompt)
        plain = view(model, model.collate([encoded]))
    except CheckError:
        raise
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if plain.points.isfinite().all():
        return Alone(encoded, plain)
    return f"{prompt.sample_id}: inf or NaN in its residual stream"


class _Trial:
    """One sample, seen in several ways; others, of the prompts that are `waiting`, are seen in a batch with it."""

    def __init__(self, model: Model, prompt: Prompt, alone: Alone, waiting: Iterator[Prompt], asked: Asked) -> None:
        self.model, self.prompt, self.alone, self.asked, self.waiting = model, prompt, alone, asked, waiting
        self.encoded, self.plain = alone
        self.batch = model.collate([self.encoded])
        self.limit = limit(model, self.encoded, self.plain, asked.batch_size)
        self.held = ["points"]
        self.differences: dict[str, float] = {}
        self.left_out: dict[str, str] = {}

    def found(self) -> Found:
        """Everything, one after the other."""
        for step in (self._capture, self._blocks, self._position_ids, self._pictures, self._generation):
            self._step(step)
        batches = self.shared()
        for what, figure in batches.seen.items():
            self._note(what, figure)
        return Found(
            *(self.encoded.sample_id, self.limit.noise, self.limit.allowed),
            *(self.held, self.differences, self.left_out),
            batches=batches.batches,
            why=batches.why,
        )

    def shared(self) -> Shared:
        """How samples may share a forward."""
        return shared(
            *(self.model, self.prompt, self.alone, self.limit, self.asked.batch_size),
            generates=self.asked.generates,
            others=list(self._others()) if self.asked.batch_size > 1 else [],
        )

    def _others(self) -> Iterator[Alone]:
        """Samples that may be in a batch with this one."""
        shape = self.model.kind.shape(self.encoded)
        for prompt in islice(self.waiting, _OTHERS):
            found = _alone(self.model, prompt)
            if isinstance(found, Alone) and self.model.kind.shape(found.encoded) == shape:
                yield found

    def _step(self, step: Callable[[], None]) -> None:
        """One of them; CheckError for whatever it raises in a model whose plain forward runs."""
        what = step.__name__.strip("_").replace("_", " ")
        try:
            step()
        except torch.OutOfMemoryError:
            self._note(what, "not enough memory")
        except ActstoreError:
            raise
        except Exception as error:
            raise CheckError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error

    def _note(self, what: str, figure: float | str) -> None:
        """A difference, or why there is none."""
        if isinstance(figure, str):
            self.left_out[what] = figure
        else:
            self.differences[what] = figure

    def _same(self, what: str, seen: View, meaning: str) -> None:
        """CheckError unless the view is the plain one, but for rounding."""
        apart = distance(seen, self.plain)
        self._note(what, apart)
        if apart > self.limit.allowed:
            raise CheckError(
                f"{meaning}: relative difference {apart:.2g}, where up to {self.limit.allowed:.1g} is rounding"
            )

    def _capture(self) -> None:
        """What is captured is what the model computes, and reading its attention changes nothing."""
        layers, chosen = range(self.model.n_layers + 1), Selection(some(self.encoded.length))
        taps = self.asked.reads or self.asked.blocks
        with ExitStack() as hooks:
            if taps:
                blocks = hooks.enter_context(self._running())
                hooks.enter_context(tapped(self.model, [(layer, lambda _: None) for layer in blocks]))
            kept = capture(self.model, self.batch, [chosen], layers=layers, next_token=True)
        assert kept.next_logits is not None
        self._same(
            "attention read" if taps else "captured",
            View(kept.residual.float(), kept.next_logits[0]),
            "reading its attention changes the model, and what would be stored is of another; leave out attention, kv "
            "and conditions"
            if taps
            else "what is captured is not what it computes without hooks",
        )

    @contextmanager
    def _running(self) -> Iterator[list[int]]:
        """Blocks with attention; inside is one forward, and CheckError says which attention does not run in it once."""
        modules = {layer: module for layer, module in enumerate(attention_modules(self.model)) if module is not None}
        ran = dict.fromkeys(modules, 0)
        with ExitStack() as hooks:
            for layer, module in modules.items():

                def count(*_: object, layer: int = layer) -> None:
                    ran[layer] += 1

                hooks.callback(module.register_forward_hook(count).remove)
            yield list(modules)
        if wrong := [layer for layer, n in ran.items() if n != 1]:
            raise CheckError(
                f"in a forward the attention found in blocks {wrong} runs {ran[wrong[0]]} times, not once, so it can "
                "be neither read nor blocked; leave out attention, kv and conditions"
            )

    def _blocks(self) -> None:
        """Attention taken away from the last token changes its residual stream, by a mask and after the softmax."""
        if not self.asked.blocks:
            return None
        if self.encoded.length < 2:
            return self._note("attention blocked", "the prompt is one token long")
        real = chosen_slots(self.batch, [np.arange(self.encoded.length)])
        last = chosen_slots(self.batch, [np.array([self.encoded.length - 1])])
        for way, mode in _WAYS:
            with self._running() as blocks, way(self.model, [(at, Edit(last, real & ~last, mode)) for at in blocks]):
                seen = view(self.model, self.batch)
            if blocks and torch.equal(seen.points[:, -1], self.plain.points[:, -1]):
                raise CheckError(
                    f"its last token is kept from attending to any other in blocks {blocks}, and nothing changes: "
                    "conditions that block attention would do nothing; leave them out"
                )
        return self.held.append("attention blocked")

    def _position_ids(self) -> None:
        """Where a batch has plain ones, padded on the left if not else, they change nothing."""
        inputs = {name: tensor for name, tensor in self.batch.inputs.items() if name != "position_ids"}
        other = replace(self.batch, inputs=inputs)
        if len(inputs) == len(self.batch.inputs):
            other = self.model.collate([self.encoded], left=True)
            if "position_ids" not in other.inputs:
                return
        self._same(
            "position ids",
            view(self.model, other),
            "with plain position ids it computes something else than with its own; this architecture needs a family of "
            "its own, without position ids",
        )

    def _pictures(self) -> None:
        if not self.prompt.images:
            return self._note("two pictures", "no sample that was looked at has one")
        if reason := check_pictures(self.model, self.prompt, self.encoded):
            return self._note("two pictures", reason)
        return self.held.append("two pictures")

    def _generation(self) -> None:
        """What follows the prompt is what plain greedy generation says first.

        A model that generates in another way, by position ids of its own for one, is run where no text is asked for.
        """
        try:
            logits = first_logits(self.model, self.model.collate([self.encoded], left=True))
            self._same(
                "first token generated",
                replace(self.plain, logits=logits[0].float().cpu()),
                "the logits after the prompt are not those by which it generates its first token: max_new_tokens = 0",
            )
        except Exception as error:
            if self.asked.generates:
                raise
            self._note("generation", f"{type(error).__name__}: {error}"[:200])
