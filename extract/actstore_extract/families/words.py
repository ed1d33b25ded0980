"""Words as a model says them: the tokens that its tokenizer makes of a word after a prompt."""

from collections.abc import Iterable
from unicodedata import category, east_asian_width

from transformers import PreTrainedTokenizerBase

from actstore.errors import ActstoreError
from actstore_extract.families.sample import MARKER

__all__ = ["WordError", "said_after"]


class WordError(ActstoreError):
    """A word has no tokens of its own after these prompts."""


def said_after(tokenizer: PreTrainedTokenizerBase, prompts: Iterable[str], word: str) -> list[int]:
    """Tokens of the word as each prompt goes on with it: behind a space, unless one of both says otherwise.

    A word that begins with a space is taken as it is; none is put after white space, an opening bracket, a special
    token or an image, nor before a word of a script that has none. Raises WordError where the first token hangs on the
    prompt, and where the tokenizer joins the end of a prompt with the word, so that no token of the word follows it.
    """
    found: dict[int, str] = {}
    tokens: list[int] = []
    for prompt in _endings(tokenizer, prompts) or [""]:
        before = _ids(tokenizer, prompt)
        whole = _ids(tokenizer, prompt + _space(tokenizer, prompt, word) + word)
        if whole[: len(before)] != before or len(whole) == len(before):
            raise WordError(
                f"the tokenizer joins {prompt[-20:]!r} and {word!r}, so that the word is not what follows the prompt; "
                "end the prompt otherwise, without a space for example"
            )
        tokens = whole[len(before) :]
        found.setdefault(tokens[0], prompt)
    if len(found) > 1:
        cases = " and ".join(f"{tokenizer.decode([token])!r} after {found[token][-20:]!r}" for token in [*found][:2])
        raise WordError(f"{word!r} begins with {cases}: let all prompts end alike")
    return tokens


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids if text else []
    return ids


def _endings(tokenizer: PreTrainedTokenizerBase, prompts: Iterable[str]) -> list[str]:
    """What is behind the image, of one prompt for each way to end: tokenizers cut a word from what is before it, so
    that no more than the last character matters, and of several ends of lines (which GPT-2's cuts otherwise where a
    word follows) the last."""
    texts = [prompt.rpartition(MARKER)[2] for prompt in prompts]
    texts = ["\n" if text.endswith("\n") else text for text in texts]
    return list({(text[-1:], _is_special(tokenizer, text)): text for text in texts}.values())


def _is_special(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return text.endswith(tuple(one.content for one in tokenizer.added_tokens_decoder.values() if one.special))


def _space(tokenizer: PreTrainedTokenizerBase, prompt: str, word: str) -> str:
    last, first = prompt[-1:], word[:1]
    if not last or last.isspace() or first.isspace() or _is_special(tokenizer, prompt):
        return ""
    return "" if category(last) in ("Ps", "Pi") or east_asian_width(first or " ") in "WF" else " "
