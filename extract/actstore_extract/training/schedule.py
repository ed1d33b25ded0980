"""Which examples make which step, and how fast each step is: functions of the step alone, so that a run can go on."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from actstore_extract.training.recipe import TrainingSection

__all__ = ["Order", "learning_rate"]


@dataclass(frozen=True)
class Order:
    """The steps of `epochs` over `n` examples: each epoch in an order of its own, in whole batches.

    What is left over when an epoch's last whole batch is full waits for the next one's order.
    """

    n: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch; one, of all examples, where they do not fill a batch."""
        return max(1, self.n // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.per_epoch * self.epochs

    def batch(self, step: int) -> NDArray[np.int64]:
        """Which examples (batch,) step `step` learns from, counted from 0.

        >>> order = Order(n=5, batch_size=2, epochs=2, seed=475)
        >>> [order.batch(step).tolist() for step in range(order.steps)]
        [[1, 3], [2, 0], [0, 1], [3, 2]]
        """
        epoch, place = divmod(step, self.per_epoch)
        return _order(self.n, self.seed, epoch)[place * self.batch_size :][: self.batch_size]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    # RandomState's stream is frozen by numpy: a training goes on under a later version, too
    return np.random.RandomState([seed, epoch]).permutation(n)


def learning_rate(step: int, steps: int, how: TrainingSection) -> float:
    """Up in a line for the first `warm_up` of the steps, then half a cosine down to `final_learning_rate`.

    >>> how = TrainingSection(batch_size=1, max_length=2, learning_rate=1e-3, warm_up=0.03, final_learning_rate=1e-8)
    >>> [f"{learning_rate(step, 1000, how):.2e}" for step in (0, 14, 29, 30, 515, 1000)]
    ['3.33e-05', '5.00e-04', '1.00e-03', '1.00e-03', '5.00e-04', '1.00e-08']
    """
    warm_up = math.ceil(how.warm_up * steps)
    if step < warm_up:
        return how.learning_rate * (step + 1) / warm_up
    low, part = how.final_learning_rate, (step - warm_up) / max(steps - warm_up, 1)
    return low + (how.learning_rate - low) * (1 + math.cos(math.pi * part)) / 2
