"""The eye of the mapped model: CLIP on scans and lists of their tags."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import CLIPConfig, CLIPModel

from actstore_extract.demo.batch import padded
from actstore_extract.demo.corpus import Corpus
from actstore_extract.demo.optimise import optimise, scaled

__all__ = ["ClipRecipe", "train_clip"]


@dataclass(frozen=True)
class ClipRecipe:
    """Each scan of a batch is matched with `tags` of its tags, in any order."""

    steps: int = 500
    learning_rate: float = 2e-3
    batch: int = 128
    tags: tuple[int, int] = (3, 7)


def train_clip(
    recipe: ClipRecipe, data: Corpus, ids: dict[str, int], *, rng: np.random.Generator, steps_scale: float
) -> CLIPModel:
    """A CLIP trained from nothing; `ids` is the vocabulary."""
    clip = CLIPModel(clip_config(ids))
    low, high = recipe.tags

    def loss_at(_: int) -> torch.Tensor:
        drawn = rng.integers(len(data.images), size=recipe.batch)
        lists = [rng.permutation(data.captions.tags[i])[: rng.integers(low, high + 1)].tolist() for i in drawn]
        texts, _targets = padded([[ids["<s>"], *tags, ids["</s>"]] for tags in lists], pad=ids["<pad>"])
        read = texts != ids["<pad>"]
        scores = clip(input_ids=texts, attention_mask=read, pixel_values=data.images[drawn]).logits_per_image
        same = torch.arange(len(texts))
        return (F.cross_entropy(scores, same) + F.cross_entropy(scores.T, same)) / 2

    steps = scaled(recipe.steps, steps_scale)
    optimise("clip", clip.parameters(), loss_at, steps=steps, learning_rate=recipe.learning_rate)
    return clip


def clip_config(ids: dict[str, int]) -> CLIPConfig:
    """Sixteen patches of 2 x 2 pixels, four layers of width 64; one layer reads the tags."""
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 8,
        "patch_size": 2,
        "projection_dim": 32,
    }
    text = {
        "vocab_size": len(ids),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "projection_dim": 32,
        "pad_token_id": ids["<pad>"],
        "bos_token_id": ids["<s>"],
        "eos_token_id": ids["</s>"],
    }
    return CLIPConfig(vision_config=vision, text_config=text, projection_dim=32)
