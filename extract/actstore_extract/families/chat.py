"""Chats: what is said in turn, as the chat template of a model writes it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from actstore.errors import ActstoreError
from actstore_extract.families.model import Model
from actstore_extract.families.placed import in_chat, remarked
from actstore_extract.families.sample import MARKER, Prompt

__all__ = ["Chat", "ChatError", "Message", "written"]

_NOW = re.compile(r"""strftime_now\(\s*(['"])(.+?)\1\s*\)""")
_MEANT = "\ue000"  # what no template writes
_THOUGHT = "</think>"  # what is in front of it templates leave out of earlier answers
_FAILED = (TemplateError, TypeError, ValueError)


class ChatError(ActstoreError):
    """The chat template cannot write this."""


class Message(NamedTuple):
    """What one side (`system`, `user`, `assistant`) says, "<image>" where it shows an image."""

    role: str
    text: str


@dataclass(frozen=True)
class Chat:
    """How samples are asked as a chat: `turns` are (user, assistant) in front of what is asked, `options` go to the
    template (that of the model unless one is given), and `today` is what it takes for the day's date."""

    system: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    template: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    today: date | None = None

    def prompt(self, model: Model, asked: Prompt) -> Prompt:
        """What is asked, as the template has it; ChatError where it cannot write that."""
        said = asked.text.replace(model.kind.marker(model), MARKER)
        _, marker, after = said.rpartition(MARKER)
        text = self._written(model, said)
        words = remarked(asked.words, asked.text, model.kind.marker(model), MARKER)
        if words:
            words = in_chat(words, said, text, self._written(model, _MEANT).rpartition(_MEANT)[2])
        return asked._replace(text=text, chat=True, image_last=bool(marker) and not after.strip(), words=words)

    def end(self, model: Model) -> str:
        """What is written behind everything that is asked: where the model's answer begins.

        ChatError for a template that writes the date, unless `today` says which.
        """
        if self.today is None and "strftime_now(" in _template(model, self.template):
            raise ChatError(
                "the chat template writes the day's date, so that prompts would differ from day to day; say which it "
                f"is: [prompt] today = {date.today().isoformat()}"
            )
        return self._written(model, _MEANT).rpartition(_MEANT)[2] + model.kind.ends_chats(model)

    def _written(self, model: Model, text: str) -> str:
        system = [] if self.system is None else [Message("system", self.system)]
        before = [
            Message(who, said) for turn in self.turns for who, said in zip(("user", "assistant"), turn, strict=True)
        ]
        said = [*system, *before, Message("user", text)]
        return written(said, model, self.template, asks=True, today=self.today, options=self.options)


def written(
    messages: Sequence[Message],
    model: Model,
    template: str | None = None,
    *,
    asks: bool = False,
    today: date | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """The messages as the template writes them, or the model's own, and if it `asks` how an answer begins; images as
    the model's own marker.

    ChatError for a model without a template, and for one that leaves out or moves what is said or shown.
    """
    source, own = _template(model, template), model.kind.marker(model)
    if today is not None:
        source = _NOW.sub(lambda match: json.dumps(today.strftime(match[2])), source)
    parts = model.processor is not model.tokenizer and _takes_parts(model.tokenizer, source, own)
    try:
        said = [_message(one, own, parts=parts) for one in messages]
        whole = _rendered(model.tokenizer, source, said, add_generation_prompt=asks, **options)
    except _FAILED as error:
        raise ChatError(f"the chat template cannot write this conversation: {error}") from error
    _check(messages, whole, own)
    return whole


def _template(model: Model, given: str | None) -> str:
    """The template's text: the one given, else the processor's, else the tokenizer's."""
    if given is not None:
        return given
    for place in (model.processor, model.tokenizer):
        found = getattr(place, "chat_template", None)
        found = found.get("default") if isinstance(found, Mapping) else found
        if found is not None:
            return cast(str, found)
    raise ChatError(f"{type(model.module).__name__} has no chat template: give one as chat_template, or ask without")


@lru_cache(maxsize=16)
def _takes_parts(words: PreTrainedTokenizerBase, source: str, own: str) -> bool:
    """Whether a template takes a message as a list of texts and images, as those of processors do, or as one text."""
    parts = _message(Message("user", f"{MARKER}{_MEANT}"), own, parts=True)
    try:
        whole = _rendered(words, source, [parts])
    except _FAILED:
        return False
    return own in whole and _MEANT in whole and "{'type'" not in whole


def _message(message: Message, own: str, *, parts: bool) -> dict[str, Any]:
    if not parts:
        return {"role": message.role, "content": message.text.replace(MARKER, own)}
    content = [
        {"type": "image"} if piece in (MARKER, own) else {"type": "text", "text": piece}
        for piece in _pieces(message.text, own)
    ]
    return {"role": message.role, "content": content}


def _pieces(text: str, own: str) -> list[str]:
    """The text cut at its images, whose markers are pieces.

    >>> _pieces("<image> and <image>", "[IMG]")
    ['<image>', ' and ', '<image>']
    """
    return [piece for piece in re.split(f"({re.escape(MARKER)}|{re.escape(own)})", text) if piece]


def _rendered(words: PreTrainedTokenizerBase, source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    return cast(str, words.apply_chat_template(messages, chat_template=source, tokenize=False, **options))


def _check(messages: Sequence[Message], whole: str, own: str) -> None:
    """ChatError unless all that is said and shown is there, turns in their order; a template may strip white space."""
    at = 0
    for message in messages:
        for piece in _pieces(message.text, own):
            is_image = piece in (MARKER, own)
            wanted = own if is_image else piece.rpartition(_THOUGHT)[2].strip()
            found = whole.find(wanted, 0 if message.role == "system" else at)
            if found < 0:
                what = "an image" if is_image else repr(wanted[:40])
                moved = "moves" if wanted in whole else "leaves out"
                raise ChatError(f"the chat template {moved} {what} of what the {message.role} says")
            at = at if message.role == "system" else found + len(wanted)
    shown = sum(one.text.count(marker) for one in messages for marker in {MARKER, own})
    if whole.count(own) != shown:
        raise ChatError(f"the chat template writes {whole.count(own)} images for {shown}")
