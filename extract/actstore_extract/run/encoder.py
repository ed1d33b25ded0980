"""The encoder: prepares samples in threads, ahead of the model that runs them."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Any

import polars as pl
from PIL.Image import Image

from actstore.errors import ActstoreError
from actstore_extract.families import Encoded, Model, Prompt, SampleError
from actstore_extract.families.chat import Chat, ChatError
from actstore_extract.pictures import PictureError
from actstore_extract.recipe.prompts import filled
from actstore_extract.recipe.recipe import PromptSection, RecipeError
from actstore_extract.recipe.worded import places
from actstore_extract.run.failures import failure_of

__all__ = ["Encoder", "chat_of", "prompt_of"]

# Reading, decoding and scaling images let go of the interpreter; a picture takes about as long as a fast GPU's forward.
NO_PROMPT = "no prompt: this sample has none, or lacks what a {column} of [prompt] text stands for"
THREADS = min(8, os.cpu_count() or 1)
PLAIN = PromptSection()  # prompts are taken as they are
Names = str | list[str] | None  # of a sample's pictures, as its plan has them


Row = Mapping[str, Any]  # of a plan, by the names of its columns


def chat_of(section: PromptSection, row: Row | None = None) -> Chat | None:
    """How a recipe asks a sample, or any of them as it has the words; None for prompts that are taken as they are."""
    if not section.chat:
        return None
    said = [text if row is None else filled(text, row, where) for where, text in section.before()]
    system = None if section.system is None else said.pop(0)
    turns = tuple(zip(said[::2], said[1::2], strict=True))
    return Chat(system, turns, section.chat_template, section.chat_options, section.today)


def prompt_of(
    model: Model,
    section: PromptSection,
    row: Row,
    image: Callable[[str], Image],
    columns: Mapping[str, str] = MappingProxyType({}),
) -> Prompt:
    """What a recipe asks of a sample of its plan, whose images `image` opens, and where the text of `columns` stands in
    it, by what roles call them; PictureError or ChatError where it cannot be asked so."""
    words = places(section, row, columns) if columns else {}
    prompt = Prompt(row["sample_id"], row["prompt"], opened(row["image"], image), words=words)
    chat = chat_of(section, row)
    return prompt if chat is None else chat.prompt(model, prompt)


def opened(names: Names, image: Callable[[str], Image]) -> tuple[Image, ...]:
    """A sample's pictures, opened by `image`; PictureError names one that cannot be."""
    found = []
    for name in [names] if isinstance(names, str) else names or []:
        try:
            found.append(image(name))
        except PictureError as error:
            raise PictureError(f"image {name}: {error}") from error
    return tuple(found)


class Encoder:
    """Samples as a model takes them, asked as a recipe's section says; `columns` are those that roles by words name.

    Up to `room` are held: those to come, and those that may be wanted again.
    """

    def __init__(
        self,
        model: Model,
        image: Callable[[str], Image],
        asks: PromptSection = PLAIN,
        columns: Mapping[str, str] = MappingProxyType({}),
        *,
        room: int,
    ) -> None:
        self.model, self.image, self.asks, self.columns, self.room = model, image, asks, columns, room
        self._held: dict[str, Future[Encoded | str]] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="encoder")

    def ahead(self, planned: pl.DataFrame) -> None:
        """Begin with the samples of the plan, unless they are held."""
        for row in planned.iter_rows(named=True):
            if row["sample_id"] not in self._held:
                self._hold(row["sample_id"], self._pool.submit(self._prepared, row))

    def encode(self, row: Row) -> Encoded | str:
        """A sample of the plan as the model takes it, or why it cannot be run; what nobody expects is tried again."""
        prepare, sample_id = partial(self._prepared, row), row["sample_id"]
        held = self._held.get(sample_id)
        if held is None or held.cancel():  # no thread has begun with it: it is done sooner here
            held = self._hold(sample_id, _done(prepare))
        if _is_unexpected(held.exception()):
            held = _done(prepare)
            if isinstance(error := held.exception(), Exception) and _is_unexpected(error):
                held = _done(lambda: failure_of(error).text)
            self._hold(sample_id, held)
        return held.result()

    def drop(self) -> None:
        """Leave out what has not begun."""
        for future in self._held.values():
            future.cancel()
        self._held.clear()

    def _hold(self, sample_id: str, future: Future[Encoded | str]) -> Future[Encoded | str]:
        while len(self._held) >= self.room:
            self._held.pop(next(iter(self._held))).cancel()
        self._held[sample_id] = future
        return future

    def _prepared(self, row: Row) -> Encoded | str:
        if row["prompt"] is None:
            return NO_PROMPT
        try:
            return self.model.encode(prompt_of(self.model, self.asks, row, self.image, self.columns))
        except SampleError as error:
            return error.reason
        except (ChatError, PictureError, RecipeError) as error:
            return str(error)


def _done(prepare: Callable[[], Encoded | str]) -> Future[Encoded | str]:
    """What a thread would have done by now."""
    future: Future[Encoded | str] = Future()
    try:
        future.set_result(prepare())
    except Exception as error:
        future.set_exception(error)
    return future


def _is_unexpected(error: BaseException | None) -> bool:
    """Whether an error may be of one sample: ours are of all of them."""
    return isinstance(error, Exception) and not isinstance(error, ActstoreError)
