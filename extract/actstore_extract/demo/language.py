"""The language model of the mapped model: a Gemma-2 that reads text and nothing else."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import Gemma2Config, Gemma2ForCausalLM

from actstore_extract.demo.batch import padded
from actstore_extract.demo.captions import Captions
from actstore_extract.demo.optimise import optimise, scaled

__all__ = ["LanguageRecipe", "texts", "train_language_model"]


@dataclass(frozen=True)
class LanguageRecipe:
    """Sentences; in `tagged` of the texts a list of `tags` tags stands where images will stand later.

    A tag is `wrong` so often, about another scan, that the model learns to weigh many hints, as patches will be.
    """

    steps: int = 500
    learning_rate: float = 3e-3
    batch: int = 96
    tagged: float = 0.65
    tags: tuple[int, int] = (3, 16)
    wrong: float = 0.25
    sentences: tuple[int, int] = (2, 5)
    digit_first: float = 0.4


def train_language_model(
    recipe: LanguageRecipe, captions: Captions, ids: dict[str, int], *, rng: np.random.Generator, steps_scale: float
) -> Gemma2ForCausalLM:
    """A model trained from nothing; `ids` is the vocabulary."""
    model = Gemma2ForCausalLM(language_config(ids))

    def loss_at(_: int) -> torch.Tensor:
        tokens, targets = padded(texts(recipe, captions, ids, n=recipe.batch, rng=rng), pad=ids["<pad>"])
        logits = model(input_ids=tokens, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    steps = scaled(recipe.steps, steps_scale)
    optimise("language", model.parameters(), loss_at, steps=steps, learning_rate=recipe.learning_rate)
    return model


def language_config(ids: dict[str, int]) -> Gemma2Config:
    """Eight layers of width 64."""
    config = Gemma2Config(
        vocab_size=len(ids),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        max_position_embeddings=256,
        sliding_window=256,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
    )
    config._attn_implementation = "eager"
    return config


def texts(
    recipe: LanguageRecipe, captions: Captions, ids: dict[str, int], *, n: int, rng: np.random.Generator
) -> list[list[int]]:
    """Token ids of `n` texts, each about one scan drawn at random."""
    return [text(recipe, captions, int(i), ids, rng) for i in rng.integers(len(captions.tags), size=n)]


def text(
    recipe: LanguageRecipe, captions: Captions, i: int, ids: dict[str, int], rng: np.random.Generator
) -> list[int]:
    """Token ids about scan `i`: sentences, and before most of them tags (drawn with repeats) and a colon."""
    said = [*captions.text(i, rng, sizes=recipe.sentences, digit_first=recipe.digit_first), ids["</s>"]]
    if rng.random() >= recipe.tagged:
        return [ids["<s>"], *said]
    low, high = recipe.tags
    kinds = rng.integers(captions.tags.shape[1], size=rng.integers(low, high + 1))
    others = rng.integers(len(captions.tags), size=len(kinds))
    about = np.where(rng.random(len(kinds)) < recipe.wrong, others, i)
    return [ids["<s>"], *captions.tags[about, kinds].tolist(), ids[":"], *said]
