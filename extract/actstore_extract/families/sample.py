"""A sample on its way into a model: the prompt, its tokens, and a padded batch of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from actstore.errors import ActstoreError
from actstore_extract.pictures import MARKER
from actstore_extract.roles import Layout

__all__ = ["MARKER", "Batch", "Encoded", "LayoutError", "Prompt", "SampleError", "Spans"]

Spans = tuple[tuple[int, int], ...]  # characters start..stop of a text, ascending


class SampleError(ActstoreError):
    """This sample cannot be run; the others can."""

    def __init__(self, sample_id: str, reason: str) -> None:
        super().__init__(f"{sample_id}: {reason}")
        self.sample_id = sample_id
        self.reason = reason


class LayoutError(ValueError):
    """The tokens are not laid out as the family says; becomes a SampleError."""


class Prompt(NamedTuple):
    """What a recipe asks: text with "<image>" where each image goes, and the image if it has one, or several in order.

    `chat`: its text is what a chat template wrote; `image_last`: nothing is asked behind the image there, so that what
    follows it is the template's alone. `words` are places in its text that roles name.
    """

    sample_id: str
    text: str
    image: Image | tuple[Image, ...] | None = None
    chat: bool = False
    image_last: bool = False
    words: Mapping[str, Spans] = MappingProxyType({})

    @property
    def images(self) -> tuple[Image, ...]:
        """Its images, in the order of the text."""
        if isinstance(self.image, tuple):
            return self.image
        return () if self.image is None else (self.image,)


@dataclass(frozen=True)
class Encoded:
    """One sample as the model takes it: tensors with a first axis of one, unpadded, on the CPU, and the layout."""

    sample_id: str
    inputs: dict[str, torch.Tensor]
    layout: Layout

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.layout.length


@dataclass(frozen=True)
class Batch:
    """Samples padded together, on the model's device; sample i's position p is slot `offset[i] + p`."""

    sample_ids: tuple[str, ...]
    layouts: tuple[Layout, ...]
    inputs: dict[str, torch.Tensor]
    offset: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def n_slots(self) -> int:
        """Length of the padded sequences."""
        return int(self.inputs["input_ids"].shape[1])

    def rows(self, sample: int, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the flattened (samples x slots) axis that hold positions `at` of a sample."""
        return sample * self.n_slots + int(self.offset[sample]) + at
