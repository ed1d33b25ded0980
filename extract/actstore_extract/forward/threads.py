"""Threads: how many a model is worth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from actstore_extract.families import Model

__all__ = ["fitting_threads"]

SMALL = 10_000_000  # parameters


@contextmanager
def fitting_threads(model: Model) -> Iterator[None]:
    """One thread for a small model on a CPU: two wait for each other, on a busy machine a hundred times longer.

    A rule on the model alone, since the number of threads can change the last bits of a result.
    """
    before = torch.get_num_threads()
    if model.device.type == "cpu" and sum(weight.numel() for weight in model.module.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
