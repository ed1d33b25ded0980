"""Exact replays from stored residual streams: only what an intervention changes is run again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import numpy as np
import torch

from actstore_extract.families import Batch, Model
from actstore_extract.forward.points import at_point
from actstore_extract.forward.tap import tapped
from actstore_extract.forward.threads import fitting_threads
from actstore_extract.interventions.blocks import Block, block_attention, own_blocks
from actstore_extract.replay.decoder import Decoder
from actstore_extract.replay.errors import ReplayError
from actstore_extract.replay.prefix import Catch, Caught, Prefix
from actstore_extract.replay.sample import Branch, Job, Kept, Put, Vectors
from actstore_extract.replay.steps import Forward, Step
from actstore_extract.roles import Positions

__all__ = ["Replay", "as_batch"]

LENGTHS = 32  # of samples, for which masks and rotations are kept
SLOTS = 1024  # run at once in a packed pass: beyond it most of the attention would be between branches, and masked

P = ParamSpec("P")
T = TypeVar("T")


def _run(replay: Callable[P, T]) -> Callable[P, T]:
    """A method of Replay that runs the model: without gradients, in as many threads as the model is worth."""

    @wraps(replay)
    def running(*args: P.args, **kwargs: P.kwargs) -> T:
        replayer = args[0]
        assert isinstance(replayer, Replay)
        with torch.no_grad(), fitting_threads(replayer.model):
            return replay(*args, **kwargs)

    return running


class Replay:
    """A decoder that goes on from stored residual streams; what is in front of its blocks is not needed.

    `blocked` is attention that is taken away from every replay, beside the model's own; random roles go by `seed`.
    """

    def __init__(self, model: Model, *, blocked: Sequence[Block] = (), seed: int = 0) -> None:
        self.model, self.blocked, self.seed = model, (*own_blocks(model), *blocked), seed
        self.forward = Forward(model)
        self._made: dict[tuple[int, int], list[Step]] = {}
        self._heads: dict[int, int] = {}

    def steps(self, n: int, past: int) -> list[Step]:
        """What each block is given for `n` slots behind `past`; kept for the samples of that length."""
        if (n, past) not in self._made:
            while len(self._made) >= LENGTHS:
                del self._made[next(iter(self._made))]
            self._made[n, past] = self.forward.steps(n, past=past)
        return self._made[n, past]

    def full(self, sample: Kept, branch: Branch) -> Vectors:
        """Logits (vocabulary,) by the model's own forward over all positions, from the branch's layer on.

        It needs the residual stream at that layer alone, and is the forward that the other ways are measured against.
        """
        logits: Vectors = self.logits(self.full_output(sample, branch)[None])[0]
        return logits

    @_run
    def full_output(self, sample: Kept, branch: Branch) -> Vectors:
        """The last position's vector (d,) at the output of that forward."""
        everywhere = np.arange(sample.layout.length)
        x = self._begun(sample, branch, everywhere)[None]
        blocked = [_within(one, range(branch.layer, self.model.n_layers)) for one in self.blocked]
        with ExitStack() as hooks:  # what is put is read of blocks as they are
            for layer in range(branch.layer, self.model.n_layers):
                hooks.enter_context(self._attention_put(layer, [branch], everywhere))
            hooks.enter_context(block_attention(self.model, as_batch(sample), blocked, seed=self.seed))
            found: Vectors = self.forward.output(x, layer=branch.layer)[0].float().cpu().numpy()
        return found

    def packed(self, jobs: Sequence[Job], advance: Callable[[int], None] = lambda _: None) -> list[Vectors]:
        """Logits (branches, vocabulary) of each job, its branches in one pass."""
        return [self.logits(last) for last in self.outputs(jobs, advance)]

    @_run
    def logits(self, last: Vectors) -> Vectors:
        """Next-token logits (n, vocabulary) after vectors (n, d) at the output, before the final norm."""
        found: Vectors = self.forward.logits(self._tensor(last)[:, None], layer=self.model.n_layers).cpu().numpy()
        return found

    @_run
    def outputs(self, jobs: Sequence[Job], advance: Callable[[int], None] = lambda _: None) -> list[Vectors]:
        """The last position's vectors (branches, d) at the output of each job: all branches in one pass.

        A branch enters in its layer, as slots behind those of the others; all see the keys and values of the slots in
        front, and none another's. Each block is used for all jobs before the next, so that its weights are needed once.
        `advance` is told of blocks done.
        """
        self.forward.check_cached()
        lanes = [_lanes(job) for job in jobs]
        begin = min(branch.layer for job in jobs for branch in job.branches)
        for layer in range(begin, self.model.n_layers + 1):
            with self._holding(layer):
                for job, own in zip(jobs, lanes, strict=True):
                    self._through(job, own, layer)
            advance(1)
        return [
            np.concatenate([lane.last for lane in own])[np.argsort(_order(job))]
            for job, own in zip(jobs, lanes, strict=True)
        ]

    def _holding(self, layer: int) -> AbstractContextManager[None]:
        """Inside, a block that reads its weights when it runs reads them once."""
        if isinstance(self.model, Decoder) and layer < self.model.n_layers:
            return self.model.holding(layer)
        return nullcontext()

    def _through(self, job: Job, lanes: "Sequence[_Lane]", layer: int) -> None:
        """All lanes of one job, through one block."""
        for lane in lanes:
            self._enter(lane, layer)
        if layer == self.model.n_layers or not any(lane.entered for lane in lanes):
            return
        held = self._keys_values(job, layer) if job.past else None
        for lane in lanes:
            if lane.entered:
                self._block(lane, layer, held)

    def _enter(self, lane: "_Lane", layer: int) -> None:
        entering = [branch for branch in lane.branches if branch.layer == layer]
        if entering:
            new = [self._begun(lane.job.sample, branch, lane.at) for branch in entering]
            lane.x = torch.cat(([] if lane.x is None else [lane.x]) + [one[None] for one in new], 1)
            lane.entered += entering

    def _block(self, lane: "_Lane", layer: int, held: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        assert lane.x is not None
        job, count, step = lane.job, len(lane.entered), self.steps(len(lane.at), lane.job.past)[layer]
        prefix = Prefix(job.past, count, len(lane.at))
        prefix.kept = held
        blocks = [replace(one, layers=(layer,)) for one in self.blocked if one.layers is None or layer in one.layers]
        with (
            self._attention_put(layer, lane.entered, lane.at),
            block_attention(self.model, as_batch(job.sample), blocks, seed=self.seed),
        ):
            lane.x = self.forward.block(layer, lane.x, _repeated(step, prefix))

    def _keys_values(self, job: Job, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (1, key heads, past, d) of the slots in front, read, or made from what entered the block."""
        if job.sample.cached is None:
            return self._made_of(self._tensor(job.sample.residual(layer, np.arange(job.past))), layer)
        heads = self._kept_heads(layer)
        keys, values = (self._tensor(one) for one in job.sample.cached(layer, job.past))
        return tuple(one.view(1, job.past, heads, -1).transpose(1, 2) for one in (keys, values))  # type: ignore[return-value]

    def _made_of(self, x: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values that a block puts into its cache, of residual streams (n, d) from the first slot on."""
        try:
            self.forward.block(layer, x[None], self.steps(len(x), 0)[layer].behind(Catch()))
        except Caught as found:
            return found.keys, found.values
        raise AssertionError("a block that makes no keys and values")

    def _kept_heads(self, layer: int) -> int:
        """How many heads the keys of a block have; ReplayError where what its attention multiplies, which stores keep,
        is not what goes into its cache: DeepSeek's are made of fewer numbers."""
        if layer not in self._heads:
            x = (
                torch.linspace(-1, 1, 2 * self.model.d_model, device=self.forward.device)
                .view(2, -1)
                .to(self.model.dtype)
            )
            seen: list[torch.Tensor] = []
            step = self.steps(2, 0)[layer]
            with tapped(self.model, [(layer, lambda rows: seen.extend((rows.key, rows.value)))]):
                self.forward.block(layer, x[None], step)
            for kept, cached in zip(seen, self._made_of(x, layer), strict=True):
                if kept.shape != cached.shape or not torch.allclose(kept, cached):
                    raise ReplayError(
                        f"block {layer} of {type(self.model.decoder).__name__} caches other keys and values than those "
                        "that are stored: replay without them, from every position at all layers (roles = ['all'])"
                    )
            self._heads[layer] = seen[0].shape[1]
        return self._heads[layer]

    def _begun(self, sample: Kept, branch: Branch, at: Positions) -> torch.Tensor:
        """The residual stream (n, d) with which a branch begins, at positions `at`."""
        x = self._tensor(sample.residual(branch.layer, at))
        put = branch.put
        if put is None or put.point != "residual":
            return x
        rows = torch.from_numpy(np.searchsorted(at, put.at))
        new = self._tensor(put.vectors(branch.layer))
        x[rows] = new if put.factor is None else x[rows] + put.factor * new
        return x

    @contextmanager
    def _attention_put(self, layer: int, branches: Sequence[Branch], at: Positions) -> Iterator[None]:
        """In this block's attention, branches read what is put into its input."""
        put = [(i, one.put) for i, one in enumerate(branches) if one.put and one.put.point == "attention-input"]
        if not put:
            yield
            return
        inputs = {id(one): self._attention_input(layer, one) for one in {id(one): one for _, one in put}.values()}

        def read(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            for i, one in put:
                x[0, i * len(at) + torch.from_numpy(np.searchsorted(at, one.at))] = inputs[id(one)].to(x.dtype)
            return x

        with at_point(self.model, "attention-input", layer, read):
            yield

    def _attention_input(self, layer: int, put: Put) -> torch.Tensor:
        """What attention would read (n, d) of the residual streams that are put."""
        x = self._tensor(put.vectors(layer))
        seen: list[torch.Tensor] = []

        def look(read: torch.Tensor) -> None:
            seen.append(read[0])
            raise _Seen

        step = self.steps(len(x), 0)[layer]
        with at_point(self.model, "attention-input", layer, look):
            try:
                self.forward.block(layer, x[None], step)
            except _Seen:
                return seen[0]
        raise AssertionError("a block that runs no attention")

    def _tensor(self, x: Vectors) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.forward.device, self.model.dtype, copy=True)


class _Seen(Exception):  # noqa: N818
    """The input of an attention was read: nothing more of the block is wanted. A signal, not an error."""


@dataclass
class _Lane:
    """Branches of one job on their way through the blocks together, in the order in which they enter."""

    job: Job
    branches: tuple[Branch, ...]
    entered: list[Branch] = field(default_factory=list)
    x: torch.Tensor | None = None  # (1, entered branches x n, d)

    @property
    def at(self) -> Positions:
        """The positions that a branch runs."""
        return np.arange(self.job.past, self.job.sample.layout.length)

    @property
    def last(self) -> Vectors:
        """The vectors (branches, d) of the last position."""
        assert self.x is not None
        x: Vectors = self.x.view(len(self.branches), len(self.at), -1)[:, -1].float().cpu().numpy()
        return x


def _order(job: Job) -> list[int]:
    """The job's branches as they enter."""
    return sorted(range(len(job.branches)), key=lambda i: job.branches[i].layer)


def _lanes(job: Job) -> list[_Lane]:
    """The job's branches in that order, as many together as one pass takes."""
    ordered = [job.branches[i] for i in _order(job)]
    together = max(1, SLOTS // (job.sample.layout.length - job.past))
    return [_Lane(job, tuple(ordered[i : i + together])) for i in range(0, len(ordered), together)]


def _within(block: Block, layers: range) -> Block:
    """The block in those of its layers that run."""
    return replace(block, layers=tuple(layer for layer in layers if block.layers is None or layer in block.layers))


def as_batch(sample: Kept) -> Batch:
    """The sample as a batch, for what asks which slots a role has."""
    token_ids = torch.from_numpy(sample.layout.token_ids)[None]
    return Batch((sample.sample_id,), (sample.layout,), {"input_ids": token_ids}, np.zeros(1, np.int64))


def _repeated(step: Step, prefix: Prefix) -> Step:
    """What a block is given for one branch, given for each."""

    def again(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(again, value))
        return value.repeat(1, prefix.branches, *[1] * (value.ndim - 2)) if isinstance(value, torch.Tensor) else value

    positions = {name: again(value) for name, value in step.kwargs.items() if name.startswith("position")}
    for name, value in step.kwargs.items():
        if isinstance(value, torch.Tensor) and name not in positions and name != "attention_mask":
            raise ReplayError(f"its blocks are given {name}, of all slots: replay whole forwards (--method full)")
    mask = prefix.mask(cast(torch.Tensor | None, step.kwargs.get("attention_mask")))
    return step.behind(prefix, attention_mask=mask, **positions)
