"""Conversations as text, by a chat template, and where in it the model's answers are."""

from collections.abc import Sequence
from typing import NamedTuple

from actstore_extract.families import Model
from actstore_extract.families.chat import ChatError, Message, written
from actstore_extract.recipe.sections import RecipeError
from actstore_extract.training.conversations import MODEL, Turn

__all__ = ["Rendered", "render"]

_ROLES = {True: "assistant", False: "user"}


class Rendered(NamedTuple):
    """A conversation's text, and from which character to which each answer is, what ends it included."""

    text: str
    answers: tuple[tuple[int, int], ...]


def render(turns: Sequence[Turn], model: Model, template: str | None) -> Rendered:
    """The turns by the template, or by the model's own; RecipeError for one that cannot say where answers are.

    An answer begins where the template is asked to let the model speak, and ends with what marks its end: white space
    behind that is nobody's.
    """
    messages = [Message(_ROLES[turn.who == MODEL], turn.text) for turn in turns]
    whole, answers = _text(messages, model, template), []
    for i, turn in enumerate(turns):
        if turn.who == MODEL:
            before = _text(messages[:i], model, template, asks=True)
            upto = _text(messages[: i + 1], model, template)
            if not upto.startswith(before) or not whole.startswith(upto):
                raise RecipeError(
                    "the chat template writes a turn otherwise when others follow: give another as chat_template"
                )
            answers.append((len(before), len(upto.rstrip())))
    return Rendered(whole, tuple(answers))


def _text(messages: Sequence[Message], model: Model, template: str | None, *, asks: bool = False) -> str:
    try:
        return written(messages, model, template, asks=asks)
    except ChatError as error:
        raise RecipeError(str(error)) from error
