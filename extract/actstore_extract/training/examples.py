"""Examples: conversations as tokens, the image among them, and the spans of tokens that are to be learned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from actstore_extract.families import MARKER, Encoded, Family, LoadError, Model, Prompt, SampleError
from actstore_extract.training.chat import render
from actstore_extract.training.conversations import Conversation, Turn

__all__ = ["Encoder", "Example"]


@dataclass(frozen=True)
class Example:
    """A sample, and from which of its tokens to which each answer is; `cut` if it was longer than the limit."""

    encoded: Encoded
    spans: tuple[tuple[int, int], ...]
    cut: bool = False


@dataclass(frozen=True)
class Encoder:
    """Makes examples for a model. `max_length` counts tokens of text, those of an image do not.

    With `image_first` the image comes right after the token that begins every text, wherever the conversation has it.
    """

    model: Model
    max_length: int
    image_first: bool

    def __post_init__(self) -> None:
        if not self.model.tokenizer.is_fast:
            raise LoadError(f"{type(self.model.tokenizer).__name__} cannot say where in a text its tokens are")

    @property
    def draws(self) -> bool:
        """Whether images are tokens that the model can say."""
        return type(self.model.kind).image_words is not Family.image_words

    def __call__(self, said: Conversation, image: Image | None, template: str | None = None) -> Example:
        """The example; SampleError where the tokens are not as they should be."""
        prompt, answers = self.prompt(said, image, template)
        encoded = self.model.encode(prompt)
        return self._shortened(encoded, self._spans(encoded, prompt, answers))

    def prompt(
        self, said: Conversation, image: Image | None, template: str | None = None
    ) -> tuple[Prompt, list[tuple[int, int]]]:
        """The whole conversation as a prompt, and the characters of its answers."""
        own = self.model.kind.marker(self.model)
        first = self.image_first and image is not None
        turns = [Turn(turn.who, _without(turn.text)) if first and MARKER in turn.text else turn for turn in said.turns]
        text, answers = render(turns, self.model, template)
        begin = self.model.tokenizer.bos_token or ""
        front, moved = (len(begin) if text.startswith(begin) else 0), (len(own) if first else 0)
        text = text[:front] + (own if first else "") + text[front:]
        spans = [(start + moved, stop + moved) for start, stop in answers]
        return Prompt(said.sample_id, text, image, chat=True), spans

    def _spans(self, encoded: Encoded, prompt: Prompt, answers: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The tokens of each answer: all that end within its characters."""
        special = self.model.kind.completes(self.model, prompt)
        found = self.model.tokenizer(prompt.text, add_special_tokens=special, return_offsets_mapping=True)
        ends = np.array([stop if stop > start else 0 for start, stop in found["offset_mapping"]])
        starts = _starts(encoded, np.array(found["input_ids"]), self.model.image_token_id)
        inside = [np.flatnonzero((start < ends) & (ends <= stop)) for start, stop in answers]
        spans = [(max(1, int(starts[tokens[0]])), int(starts[tokens[-1] + 1])) for tokens in inside if len(tokens)]
        if not self.draws and any(start <= at < stop for start, stop in spans for at in encoded.layout.image[:1]):
            raise SampleError(encoded.sample_id, f"an image as answer: {self.model.family} models do not draw")
        return spans

    def _shortened(self, encoded: Encoded, spans: list[tuple[int, int]]) -> Example:
        """The example without what is beyond the limit; SampleError if that is a piece of the image."""
        n_image, end = _machinery(encoded)
        limit = self.max_length + n_image
        if encoded.length <= limit:
            return Example(encoded, tuple(spans))
        if end > limit:
            raise SampleError(
                encoded.sample_id, f"max_length {self.max_length} would cut the image, which ends at token {end}"
            )
        inputs = {
            name: x[:, :limit] if x.ndim == 2 and x.shape[1] == encoded.length else x
            for name, x in encoded.inputs.items()
        }
        layout = replace(encoded.layout, token_ids=encoded.layout.token_ids[:limit])
        kept = tuple((start, min(stop, limit)) for start, stop in spans if start < limit)
        return Example(Encoded(encoded.sample_id, inputs, layout), kept, cut=True)


def _without(text: str) -> str:
    """A turn without the image's marker and the space around it.

    >>> _without("<image>\\nWhat is this?"), _without("Is this <image> a dog?")
    ('What is this?', 'Is this a dog?')
    """
    before, _, after = text.partition(MARKER)
    parts = [part for part in (before.rstrip(), after.lstrip()) if part]
    return " ".join(parts)


def _machinery(encoded: Encoded) -> tuple[int, int]:
    """How many tokens the image is, with what wraps it, and where it ends; 0, 0 without an image."""
    if not encoded.layout.spans:
        return 0, 0
    (span,) = encoded.layout.spans
    return len(span.block), int(span.block[-1]) + 1


def _starts(encoded: Encoded, words: NDArray[np.int64], image_token: int | None) -> NDArray[np.int64]:
    """Where each token (n,) of the text alone begins among the sample's own, and where the last one ends: (n + 1,).

    In the text the image is one token; a token that begins every text may be missing, and one that a processor puts
    behind a chat, as Chameleon's does. SampleError if the tokens around the image are others.
    """
    ids, n = encoded.layout.token_ids, len(words)
    at = int(np.argmax(words == image_token)) if len(encoded.layout.image) else n
    tail = n - at - 1 if at < n else 0
    for front, behind in product((0, 1), (0, 1)):
        stop = len(ids) - behind
        starts = np.arange(n + 1) + front
        starts[at + 1 :] += stop - front - n
        if (
            np.array_equal(ids[front : front + at], words[:at])
            and np.array_equal(ids[stop - tail : stop], words[n - tail :])
            and (at < n or stop == n + front)
        ):
            return starts
    raise SampleError(encoded.sample_id, "the tokens around the image are not those of the text alone")
