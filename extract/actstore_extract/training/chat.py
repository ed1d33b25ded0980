"""Conversations as text, by a chat template, and where in it the model's answers are."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from actstore_extract.recipe.sections import RecipeError
from actstore_extract.training.conversations import MODEL, Turn

__all__ = ["Rendered", "render"]

_ROLES = {True: "assistant", False: "user"}


class Rendered(NamedTuple):
    """A conversation's text, and from which character to which each answer is, what ends it included."""

    text: str
    answers: tuple[tuple[int, int], ...]


def render(turns: Sequence[Turn], words: PreTrainedTokenizerBase, template: str | None) -> Rendered:
    """The turns by the template, or by the tokenizer's own; RecipeError for one that cannot say where answers are.

    An answer begins where the template is asked to let the model speak, and ends with what marks its end: white space
    behind that is nobody's.
    """
    messages = [{"role": _ROLES[turn.who == MODEL], "content": turn.text} for turn in turns]
    whole, answers = _text(messages, words, template), []
    for i, turn in enumerate(turns):
        if turn.who == MODEL:
            before = _text(messages[:i], words, template, add_generation_prompt=True)
            upto = _text(messages[: i + 1], words, template)
            if not upto.startswith(before) or not whole.startswith(upto):
                raise RecipeError(
                    "the chat template writes a turn otherwise when others follow: give another as chat_template"
                )
            answers.append((len(before), len(upto.rstrip())))
    return Rendered(whole, tuple(answers))


def _text(messages: list[dict[str, str]], words: PreTrainedTokenizerBase, template: str | None, **options: Any) -> str:
    if template is None and words.chat_template is None:
        raise RecipeError("the tokenizer has no chat template: give one as chat_template in [model]")
    try:
        return cast(str, words.apply_chat_template(messages, chat_template=template, tokenize=False, **options))
    except TemplateError as error:
        raise RecipeError(f"the chat template cannot write this conversation: {error}") from error
