"""What a model says next after each sample of a batch, and the tokens that stand for a recipe's answers."""

from collections.abc import Callable, Mapping, Sequence

import polars as pl
import torch

from actstore_extract.families import Model
from actstore_extract.families.words import WordError, said_after
from actstore_extract.interventions.sources import Source
from actstore_extract.recipe.answers import TRUTH, Answers
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.run.content import Answer
from actstore_extract.run.notes import known_words

__all__ = ["Said", "tokens_of"]

TOP = 10  # next tokens that are kept


def said_last(asked: pl.DataFrame, end: str) -> list[str]:
    """What stands in front of an answer to each prompt, `end` that of a chat; nothing is said after an image."""
    asked = asked if end else asked.filter(pl.col("prompt_order") != "text-image")
    return [prompt + end for prompt in asked["prompt"].drop_nulls()]


def tokens_of(
    model: Model, answers: Answers, asked: pl.DataFrame | None, end: str, warn: Callable[[str], None]
) -> list[int]:
    """The token that stands for each answer, words, {class: word} or the samples' own: the first of what the word is
    after the prompts of the samples, or of those whose own it is; without samples, of the word alone.

    RecipeError for a word that is none of the tokenizer's, or another one after each prompt; `warn` is told of those of
    several tokens, of those that begin with the same one, and of tokens that are not those of the words alone.
    """
    if isinstance(answers, str):
        assert asked is not None
        by_word = asked.partition_by(TRUTH, maintain_order=True)
        after = {one[TRUTH][0]: said_last(one, end) for one in by_word}
    else:
        prompts = [] if asked is None else said_last(asked, end)
        after = dict.fromkeys(answers.values() if isinstance(answers, Mapping) else answers, prompts)
    spelled = {word: _spelled(model, word, prompts) for word, prompts in after.items()}
    words = list(answers.values() if isinstance(answers, Mapping) else spelled if isinstance(answers, str) else answers)
    _warn_of(model, words, spelled, warn)
    return [spelled[word][0] for word in words]


def _warn_of(model: Model, words: Sequence[str], spelled: Mapping[str, list[int]], warn: Callable[[str], None]) -> None:
    """Say which words are several tokens, begin with the same one, or have others than alone."""
    several = [word for word in spelled if len(spelled[word]) > 1]
    if len(several) == 1:
        warn(f"answer {several[0]!r} is {len(spelled[several[0]])} tokens; the first stands for it")
    elif several:
        warn(f"answers {_few(several)} are several tokens; the first stands for each")
    tokens = [spelled[word][0] for word in words]
    same = [f"{words[tokens.index(token)]!r} and {words[i]!r}" for i, token in enumerate(tokens) if token in tokens[:i]]
    if same:
        more = f" ({len(same)} pairs in all)" if len(same) > 1 else ""
        warn(f"answers {same[0]} begin with the same token, so they cannot be told apart{more}")
    if tokens != [_alone(model, word)[0] for word in words]:
        warn(
            f"answers are {_few([str(model.tokenizer.decode([token])) for token in tokens])} as they follow the prompts"
        )


def _few(words: Sequence[str], most: int = 8) -> str:
    """
    >>> _few(["a", "b", "c"], most=2)
    "'a', 'b', and 1 more"
    """
    return ", ".join([*map(repr, words[:most]), *([f"and {len(words) - most} more"] if len(words) > most else [])])


def _spelled(model: Model, word: str, prompts: Sequence[str]) -> list[int]:
    """The tokens of an answer, the first of which stands for it."""
    if not word or _alone(model, word)[:1] in ([], [model.tokenizer.unk_token_id]):
        some = known_words(model)
        raise RecipeError(f"[capture] answers: {word!r} is no word of this model's tokenizer; take one it knows{some}")
    try:
        return said_after(model.tokenizer, prompts, word)
    except WordError as error:
        raise RecipeError(f"[capture] answers: {error}") from None


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
