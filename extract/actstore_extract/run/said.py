"""What a model says next after each sample of a batch, and the tokens that stand for a recipe's answers."""

from collections.abc import Callable, Mapping, Sequence

import torch

from actstore_extract.families import Model
from actstore_extract.interventions.sources import Source
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.run.content import Answer

__all__ = ["Said"]

TOP = 10  # next tokens that are kept


class Said:
    """Reads next-token logits; `tokens` stand for the answers, words or {label: word}, in their order.

    RecipeError for a word that is none of the tokenizer's; `warn` is told of those of several tokens, and of two that
    begin with the same one.
    """

    def __init__(self, model: Model, answers: Sequence[str] | Mapping[str, str], warn: Callable[[str], None]) -> None:
        self.model, self.warn = model, warn
        words = list(answers.values()) if isinstance(answers, Mapping) else list(answers)
        self.tokens = [self._token(word) for word in words]
        for i, token in enumerate(self.tokens):
            if token in self.tokens[:i]:
                first = words[self.tokens.index(token)]
                warn(f"answers {first!r} and {words[i]!r} begin with the same token, so they cannot be told apart")

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

    def _token(self, word: str) -> int:
        """The token that stands for an answer: the first of those the tokenizer makes of it."""
        tokens: list[int] = self.model.tokenizer(word, add_special_tokens=False).input_ids
        if not tokens or tokens[0] == self.model.tokenizer.unk_token_id:
            raise RecipeError(f"[capture] answers: {word!r} is no word of this model's tokenizer")
        if len(tokens) > 1:
            self.warn(f"answer {word!r} is {len(tokens)} tokens; the first stands for it")
        return tokens[0]


def _alike(distribution: torch.Tensor, sources: Sequence[Source]) -> list[float]:
    """What each next-token distribution (samples, vocabulary) shares with its source's: the smaller, summed."""
    own = torch.stack([source.distribution for source in sources])
    shared: list[float] = torch.minimum(distribution, own).sum(-1, dtype=torch.float64).tolist()
    return shared
