"""Sharing: which examples may go through a model together, found on some of them before anything is learned."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from actstore_extract.check.check import batching
from actstore_extract.check.found import Found
from actstore_extract.families import Prompt, SampleError
from actstore_extract.pictures import PictureError
from actstore_extract.training.data import Data
from actstore_extract.training.examples import Encoder

__all__ = ["sharing"]

_LOOKED_AT = 128  # examples, those with an image in front: the first that can be run is looked at


def sharing(data: Data, encode: Encoder, micro_batch: int) -> Found:
    """How examples may share a forward: what one learns from a batch is what it would from each example alone."""
    if micro_batch == 1:
        return Found()
    with _without_dropout(encode.model.module):
        return batching(encode.model, _prompts(data, encode), micro_batch)


def _prompts(data: Data, encode: Encoder) -> Iterator[Prompt]:
    numbers = range(min(len(data), _LOOKED_AT))
    for number in sorted(numbers, key=lambda one: data.conversation(one)[0].image is None):
        said, template = data.conversation(number)
        try:
            yield encode.prompt(said, data.image(number), template)[0]
        except (PictureError, SampleError):  # the training says so of each example
            continue


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    """Inside, what a forward computes is the same each time."""
    learning = [one for one in module.modules() if one.training]
    module.eval()
    try:
        yield
    finally:
        for one in learning:
            one.training = True
