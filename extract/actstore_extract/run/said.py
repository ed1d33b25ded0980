"""What a model says next after each sample of a batch, and the tokens that stand for a recipe's answers."""

from collections.abc import Callable, Mapping, Sequence

import polars as pl
import torch

from actstore_extract.families import Model
from actstore_extract.families.words import WordError, said_after
from actstore_extract.interventions.sources import Source
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.run.content import Answer

__all__ = ["Said", "said_last", "tokens_of"]

TOP = 10  # next tokens that are kept


def said_last(asked: pl.DataFrame, end: str) -> list[str]:
    """What stands in front of an answer to each prompt, `end` that of a chat; nothing is said after an image."""
    asked = asked if end else asked.filter(pl.col("prompt_order") != "text-image")
    return [prompt + end for prompt in asked["prompt"].drop_nulls()]


def tokens_of(
    model: Model, answers: Sequence[str] | Mapping[str, str], prompts: Sequence[str], warn: Callable[[str], None]
) -> list[int]:
    """The token that stands for each answer, words or {class: word}: the first of what the word is after the prompts.

    RecipeError for a word that is none of the tokenizer's, or another one after each prompt; `warn` is told of those of
    several tokens, of two that begin with the same one, and of tokens that are not those of the words alone.
    """
    words = list(answers.values()) if isinstance(answers, Mapping) else list(answers)
    tokens = [_token(model, word, prompts, warn) for word in words]
    for i, token in enumerate(tokens):
        if token in tokens[:i]:
            first = words[tokens.index(token)]
            warn(f"answers {first!r} and {words[i]!r} begin with the same token, so they cannot be told apart")
    if tokens != [_alone(model, word)[0] for word in words]:
        said = ", ".join(repr(model.tokenizer.decode([token])) for token in tokens)
        warn(f"answers are {said} as they follow the prompts")
    return tokens


def _token(model: Model, word: str, prompts: Sequence[str], warn: Callable[[str], None]) -> int:
    """The token that stands for an answer."""
    if not word or _alone(model, word)[:1] in ([], [model.tokenizer.unk_token_id]):
        raise RecipeError(f"[capture] answers: {word!r} is no word of this model's tokenizer")
    try:
        tokens = said_after(model.tokenizer, prompts, word)
    except WordError as error:
        raise RecipeError(f"[capture] answers: {error}") from None
    if len(tokens) > 1:
        warn(f"answer {word!r} is {len(tokens)} tokens; the first stands for it")
    return tokens[0]


def _alone(model: Model, word: str) -> list[int]:
    """The tokens of a word without a prompt: its first stood for it in stores whose run card says no answer_tokens."""
    found: list[int] = model.tokenizer(word, add_special_tokens=False).input_ids
    return found


class Said:
    """Reads next-token logits; `tokens` stand for the answers, in their order."""

    def __init__(self, model: Model, tokens: Sequence[int]) -> None:
        self.model, self.tokens = model, list(tokens)

    def after(
        self, logits: torch.Tensor | None, texts: Sequence[str | None], sources: Sequence[Source]
    ) -> list[Answer]:
        """What the model says after each sample, by its logits (samples, vocabulary) and the text it went on with."""
        if logits is None:
            return [Answer([], [], [], text=text) for text in texts]
        distribution = logits.softmax(-1)
        top = distribution.topk(min(TOP, distribution.shape[-1]))
        answers = distribution[:, self.tokens].tolist() if self.tokens else [None] * len(texts)
        alike = _alike(distribution, sources) if sources else [None] * len(texts)
        words = [[str(self.model.tokenizer.decode([token])) for token in ids] for ids in top.indices.tolist()]
        columns = (top.indices.tolist(), words, top.values.tolist(), answers, texts, alike)
        return [Answer(*said) for said in zip(*columns, strict=True)]


def _alike(distribution: torch.Tensor, sources: Sequence[Source]) -> list[float]:
    """What each next-token distribution (samples, vocabulary) shares with its source's: the smaller, summed."""
    own = torch.stack([source.distribution for source in sources])
    shared: list[float] = torch.minimum(distribution, own).sum(-1, dtype=torch.float64).tolist()
    return shared
