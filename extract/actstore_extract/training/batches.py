"""The batches of a training, each made while the one before is learned."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from actstore_extract.families import SampleError
from actstore_extract.pictures import PictureError
from actstore_extract.training.data import Data
from actstore_extract.training.examples import Encoder, Example
from actstore_extract.training.schedule import Order

__all__ = ["Batch", "Batches"]

READERS = 8  # threads that open images
ROOM = 2**28  # bytes of examples that are kept for the next epoch


class Batch(NamedTuple):
    """This process' part of a step's examples, and why some cannot be used."""

    names: list[str]
    examples: list[Example]
    bad: list[SampleError]

    @property
    def learned(self) -> list[Example]:
        """Those that have an answer left."""
        return [example for example in self.examples if example.spans]


class Batches:
    """Makes the batches of an order, or of them the share (rank, of how many) of a process.

    Examples of small sets are made once, for all epochs.
    """

    def __init__(self, data: Data, encode: Encoder, order: Order, share: tuple[int, int]) -> None:
        self.data, self.encode, self.order = data, encode, order
        self.rank, self.world = share
        self.kept: dict[int, Example] = {}
        self.room = ROOM if order.epochs > 1 else 0

    @contextmanager
    def beginning(self, step: int) -> Iterator[Iterator[Batch]]:
        """The batches from a step on."""
        with (
            ThreadPoolExecutor(min(READERS, os.cpu_count() or 1), thread_name_prefix="images") as readers,
            ThreadPoolExecutor(1, thread_name_prefix="examples") as maker,
        ):
            yield self._ahead(range(step, self.order.steps), readers, maker)

    def _ahead(self, steps: range, readers: ThreadPoolExecutor, maker: ThreadPoolExecutor) -> Iterator[Batch]:
        coming: Future[Batch] | None = None
        for step in steps:
            batch = self._made(step, readers) if coming is None else coming.result()
            coming = maker.submit(self._made, step + 1, readers) if step + 1 in steps else None
            yield batch

    def _made(self, step: int, readers: ThreadPoolExecutor) -> Batch:
        numbers = self.order.batch(step)[self.rank :: self.world].tolist()
        images = readers.map(self._image, numbers)
        made = [self._one(number, image) for number, image in zip(numbers, images, strict=True)]
        names = [self.data.conversation(number)[0].sample_id for number in numbers]
        good = [one for one in made if isinstance(one, Example)]
        return Batch(names, good, [one for one in made if isinstance(one, SampleError)])

    def _image(self, number: int) -> Any:
        """The image, or why it cannot be read."""
        try:
            return None if number in self.kept else self.data.image(number)
        except PictureError as error:
            return error

    def _one(self, number: int, image: Any) -> Example | SampleError:
        if number in self.kept:
            return self.kept[number]
        said, template = self.data.conversation(number)
        if isinstance(image, PictureError):
            return SampleError(said.sample_id, f"its image {said.image} cannot be read: {image}")
        try:
            made = self.encode(said, image, template)
        except SampleError as error:
            return error
        size = sum(x.nbytes for x in made.encoded.inputs.values())
        if size <= self.room:
            self.room -= size
            self.kept[number] = made
        return made
