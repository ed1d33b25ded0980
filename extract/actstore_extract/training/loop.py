"""The loop: batches of examples, gradients gathered over all of a batch, a step, a row of the log; again."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from actstore.errors import ActstoreError
from actstore.progress import bar
from actstore_extract.families import Model
from actstore_extract.forward.threads import fitting_threads
from actstore_extract.training.batches import Batch, Batches
from actstore_extract.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from actstore_extract.training.data import Data
from actstore_extract.training.examples import Encoder, Example
from actstore_extract.training.log import Row, read_log, write_log
from actstore_extract.training.loss import losses
from actstore_extract.training.recipe import TrainingRecipe
from actstore_extract.training.schedule import Order, learning_rate
from actstore_extract.training.sharing import sharing
from actstore_extract.training.stopping import Stop, stopping

__all__ = ["Done", "Learner", "TrainingError", "train"]


class TrainingError(ActstoreError):
    """The training cannot go on."""


@dataclass(frozen=True)
class Learner:
    """A model, what of it learns, in float32, and how its examples are made; `facts` say what it was made from, and
    `settings` how that is set up."""

    model: Model
    weights: dict[str, torch.nn.Parameter]
    encode: Encoder
    facts: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)


class Done(NamedTuple):
    """A training that has come to its end, or to the step at which it was stopped."""

    step: int
    steps: int
    log: list[Row]

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.steps


class _Totals(NamedTuple):
    """Counts over all processes."""

    examples: int
    cut: int
    empty: int
    bad: int
    stopped: int


def train(
    recipe: TrainingRecipe,
    learner: Learner,
    data: Data,
    out: Path,
    accelerator: Accelerator,
    say: Callable[[str], None] = lambda _: None,
) -> Done:
    """Train from the beginning, or from the checkpoint in `out`, to the end, or until Ctrl-C; the state is kept.

    Raises TrainingError, with the step and its examples, for a loss that is no number and for examples that turn out
    to be unusable; what was kept before stays. And where a whole epoch has nothing to learn.
    """
    with fitting_threads(learner.model), stopping() as stop:
        return _Loop(recipe, learner, data, out, accelerator, say, stop).run()


class _Loop:
    def __init__(
        self,
        recipe: TrainingRecipe,
        learner: Learner,
        data: Data,
        out: Path,
        accelerator: Accelerator,
        say: Callable[[str], None],
        stop: Stop,
    ) -> None:
        self.how, self.learner, self.data, self.out = recipe.training, learner, data, out
        self.accelerator, self.say, self.stop, self.seed = accelerator, say, stop, recipe.seed
        if len(data) < accelerator.num_processes:
            raise TrainingError(f"{len(data)} examples for {accelerator.num_processes} processes: use fewer processes")
        self.order = Order(len(data), self.how.batch_size, self.how.epochs, recipe.seed)
        self.made = {**recipe.record(), "made_from": learner.facts, "settings": learner.settings, **data.record()}
        self.parameters = list(learner.weights.values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.how.learning_rate, betas=self.how.betas, weight_decay=self.how.weight_decay
        )
        self.step, self.kept, self.log = 0, 0, list[Row]()

    def run(self) -> Done:
        """All steps that are left."""
        shared = sharing(self.data, self.learner.encode, self.how.micro_batch)
        self.learner.model.batching = shared.batches
        for line in shared.lines():
            self.say(line)
        if found := read_checkpoint(self.out, self.made):
            self._restore(found)
        self.say(f"{self.order.steps - self.step} of {self.order.steps} steps left, of {self.how.batch_size} examples")
        share = (self.accelerator.process_index, self.accelerator.num_processes)
        batches = Batches(self.data, self.learner.encode, self.order, share)
        with bar(self.order.steps - self.step, "steps") as progress, batches.beginning(self.step) as coming:
            for batch in coming:
                if not self._step(batch):
                    break
                loss = self.log[-1].loss
                progress.advance(note="" if loss is None else f"loss {loss:.3g}")
                if self.step == self.order.per_epoch:
                    self._refuse_nothing()
                if self.step % self.how.checkpoint_every == 0:
                    self._keep()
        self._keep()
        return Done(self.step, self.order.steps, self.log)

    def _restore(self, found: Checkpoint) -> None:
        found.restore(self.learner.weights, self.optimizer)
        self.step = self.kept = found.step
        self.log = found.log
        if self.accelerator.is_main_process and read_log(self.out) != self.log:
            write_log(self.out, self.log)

    def _keep(self) -> None:
        if self.accelerator.is_main_process and (self.step > self.kept or not self.step):
            write_log(self.out, self.log)
            write_checkpoint(self.out, self.made, self.log, self.learner.weights, self.optimizer)
        self.kept = self.step

    def _step(self, batch: Batch) -> bool:
        """Learn from a batch; False, and nothing is learned, if the end was asked for."""
        began = time.monotonic()
        totals = self._totals(batch)
        if totals.stopped:
            return False
        if totals.bad and not self.how.skip_bad:
            self._keep()
            self._refuse(batch, totals.bad)
        rate = learning_rate(self.step, self.order.steps, self.how)
        loss = norm = None
        if totals.examples:
            torch.manual_seed(_seed(self.seed, self.step, self.accelerator.process_index))
            loss = self._gradients(batch, totals.examples)
            if loss is None:
                return False
            norm = self._norm(batch, loss)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        epoch, seconds = self.step // self.order.per_epoch, time.monotonic() - began
        counts = (totals.examples, totals.cut, totals.empty, totals.bad)
        self.log.append(Row(self.step, epoch, loss, rate, norm, *counts, seconds))
        self.step += 1
        return True

    def _totals(self, batch: Batch) -> _Totals:
        cut = sum(example.cut for example in batch.examples)
        counts = [len(batch.learned), cut, len(batch.examples) - len(batch.learned), len(batch.bad), self.stop.asked]
        return _Totals(*map(int, self._sum(torch.tensor(counts, dtype=torch.float64)).tolist()))

    def _sum(self, x: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        if self.accelerator.num_processes == 1:
            return x
        summed: torch.Tensor = self.accelerator.reduce(x.to(self.accelerator.device), "sum")
        return summed

    def _gradients(self, batch: Batch, n: int) -> float | None:
        """Gather the gradients of the mean loss over `n` examples, piece by piece; the loss, or None if stopped."""
        total = torch.zeros(1, dtype=torch.float64)
        for piece in self._pieces(batch.learned):
            if self.stop.asked and self.accelerator.num_processes == 1:
                return None
            each = losses(self.learner.model, piece)
            self.accelerator.backward(each.sum() / n)
            total += each.detach().sum().cpu().double() / n
        if self.accelerator.num_processes > 1:
            for weight in self.parameters:
                weight.grad = self._sum(torch.zeros_like(weight) if weight.grad is None else weight.grad)
        return float(self._sum(total))

    def _pieces(self, examples: list[Example]) -> Iterator[list[Example]]:
        """Examples that go through the model together."""
        encoded = [example.encoded for example in examples]
        for chosen in self.learner.model.batches(encoded, self.how.micro_batch):
            yield [examples[i] for i in chosen]

    def _norm(self, batch: Batch, loss: float) -> float:
        """Of the gradient; TrainingError where it or the loss is no number."""
        gradients = [weight.grad for weight in self.parameters if weight.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if norm - norm == 0 and loss - loss == 0:  # neither nan nor infinite
            return norm
        names = gather_object(batch.names) if self.accelerator.num_processes > 1 else batch.names
        last = f"the checkpoint of step {self.kept} is kept in {self.out}" if self.kept else "nothing was kept yet"
        raise TrainingError(
            f"step {self.step}: the loss is {loss:.4g} and its gradient's norm {norm:.4g}; {last}\n"
            f"its batch: {', '.join(names)}"
        )

    def _refuse(self, batch: Batch, count: int) -> None:
        first = f", the first: {batch.bad[0]}" if batch.bad else ""
        raise TrainingError(
            f"step {self.step}: {count} examples cannot be used{first}; {self.step} steps are kept in {self.out}\n"
            "mend them and go on with the same command, or leave such out with --set training.skip_bad=true"
        )

    def _refuse_nothing(self) -> None:
        """An epoch without anything to learn is not followed by another: TrainingError says why."""
        if any(row.examples for row in self.log):
            return
        cut, empty, bad = (sum(getattr(row, name) for row in self.log) for name in ("cut", "empty", "bad"))
        raise TrainingError(
            f"there is nothing to learn in an epoch of {empty + bad} examples: {empty} have no answer left, "
            f"{cut} were cut at max_length {self.how.max_length}, {bad} cannot be used\n"
            "try another folder with a larger training.max_length, or mend the examples"
        )


def _seed(seed: int, step: int, rank: int) -> int:
    """Of what a step draws (dropout): the same when the step is made again."""
    return (seed * 1_000_003 + step) * 1_009 + rank
