"""The encoder: prepares samples in threads, ahead of the model that runs them."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import polars as pl
from PIL.Image import Image

from actstore.errors import ActstoreError
from actstore_extract.families import Encoded, Model, Prompt, SampleError
from actstore_extract.families.chat import Chat, ChatError
from actstore_extract.pictures import PictureError
from actstore_extract.recipe.recipe import PromptSection
from actstore_extract.run.failures import failure_of

__all__ = ["Encoder", "chat_of", "opened"]

# Reading, decoding and scaling images let go of the interpreter; a picture takes about as long as a fast GPU's forward.
NO_PROMPT = "no prompt: this sample lacks what a {column} of [prompt] text stands for"
THREADS = min(8, os.cpu_count() or 1)
Names = str | list[str] | None  # of a sample's pictures, as its plan has them


def chat_of(section: PromptSection) -> Chat | None:
    """How a recipe asks its samples; None for prompts that are taken as they are."""
    if not section.chat:
        return None
    turns = tuple((turn.user, turn.assistant) for turn in section.turns)
    return Chat(section.system, turns, section.chat_template, section.chat_options, section.today)


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
    """Samples as a model takes them, asked in a chat if there is one.

    Up to `room` are held: those to come, and those that may be wanted again.
    """

    def __init__(self, model: Model, image: Callable[[str], Image], *, chat: Chat | None = None, room: int) -> None:
        self.model, self.image, self.chat, self.room = model, image, chat, room
        self._held: dict[str, Future[Encoded | str]] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="encoder")

    def ahead(self, planned: pl.DataFrame) -> None:
        """Begin with the samples of the plan, unless they are held."""
        for sample in planned.select("sample_id", "prompt", "image").iter_rows():
            if sample[0] not in self._held:
                self._hold(sample[0], self._pool.submit(self._prepared, *sample))

    def encode(self, sample_id: str, text: str | None, image: Names) -> Encoded | str:
        """The sample as the model takes it, or why it cannot be run: what nobody expects is tried once more."""
        prepare = partial(self._prepared, sample_id, text, image)
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

    def _prepared(self, sample_id: str, text: str | None, image: Names) -> Encoded | str:
        if text is None:
            return NO_PROMPT
        try:
            prompt = Prompt(sample_id, text, opened(image, self.image))
            return self.model.encode(prompt if self.chat is None else self.chat.prompt(self.model, prompt))
        except SampleError as error:
            return error.reason
        except ChatError as error:
            return str(error)
        except PictureError as error:
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
