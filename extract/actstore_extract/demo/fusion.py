"""The fusion models: Chameleon trained from nothing on image tokens and words, in both orders."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from transformers import ChameleonConfig, ChameleonForConditionalGeneration, ChameleonVQVAE

from actstore_extract.demo.batch import padded
from actstore_extract.demo.captions import Captions
from actstore_extract.demo.optimise import optimise, scaled
from actstore_extract.demo.vqvae import vqvae_config
from actstore_extract.demo.words import image_words

__all__ = ["FusionRecipe", "gate", "train_fusion"]

N_IMAGE = 16


@dataclass(frozen=True)
class FusionRecipe:
    """How a fusion model is trained; the mixture holds in the second stage, the first is tags only."""

    gated: bool
    tag_steps: int = 300
    steps: int = 1200
    learning_rate: float = 3e-3
    tokens_per_step: int = 3400
    text_to_image: float = 0.4
    tag: float = 0.15
    text_only: float = 0.05
    digit_first: float = 0.4
    sentences: tuple[int, int] = (3, 6)


@dataclass(frozen=True)
class Document:
    """Token ids, and where the text begins that may be cut off from the image before it (None: no such text)."""

    ids: list[int]
    text_from: int | None


def fusion_config(ids: dict[str, int]) -> ChameleonConfig:
    """Six layers of width 64."""
    return ChameleonConfig(
        vocab_size=len(ids),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        vq_config=vqvae_config().to_dict(),
        vocabulary_map={word: ids[word] for word in ("<image>", *image_words())},
    )


def train_fusion(
    recipe: FusionRecipe,
    vqvae: ChameleonVQVAE,
    image_codes: NDArray[np.int64],
    captions: Captions,
    ids: dict[str, int],
    *,
    rng: np.random.Generator,
    steps_scale: float,
) -> ChameleonForConditionalGeneration:
    """A model of scans with `image_codes` (n, 16) and their captions."""
    model = ChameleonForConditionalGeneration(fusion_config(ids))
    model.model.vqmodel.load_state_dict(vqvae.state_dict())
    image_ids = np.array([ids[word] for word in image_words()])[image_codes]
    draw = documents(recipe, image_ids, captions, ids)
    tag_steps, steps = scaled(recipe.tag_steps, steps_scale), scaled(recipe.steps, steps_scale)

    def loss_at(step: int) -> torch.Tensor:
        batch, n_tokens = [], 0
        while n_tokens < recipe.tokens_per_step:
            batch.append(draw(rng, step < tag_steps))
            n_tokens += len(batch[-1].ids)
        return next_token_loss(model, batch, pad=ids["<pad>"], gated=recipe.gated)

    learned = [parameter for name, parameter in model.named_parameters() if ".vqmodel." not in name]
    name = "gated" if recipe.gated else "fusion"
    optimise(name, learned, loss_at, steps=tag_steps + steps, learning_rate=recipe.learning_rate)
    return model


def documents(
    recipe: FusionRecipe, image_ids: NDArray[np.int64], captions: Captions, ids: dict[str, int]
) -> Callable[[np.random.Generator, bool], Document]:
    """A function that draws a document: of the second stage, or of the first if its second argument is true."""
    bos, eos, boi, eoi = (ids[word] for word in ("<s>", "</s>", "<racm3:break>", "<eoss>"))

    def draw(rng: np.random.Generator, tags_only: bool) -> Document:
        i = int(rng.integers(len(image_ids)))
        image = [boi, *image_ids[i].tolist(), eoi]
        kind = 0.0 if tags_only else rng.random()
        if kind < recipe.tag:
            return Document([bos, *image, captions.tag(i, rng, digit=0.5), eos], 1 + len(image))
        text = captions.text(i, rng, sizes=recipe.sentences, digit_first=recipe.digit_first)
        if kind < recipe.tag + recipe.text_only:
            return Document([bos, *text, eos], None)
        if kind < recipe.tag + recipe.text_only + recipe.text_to_image:
            return Document([bos, *text, *image, eos], None)
        return Document([bos, *image, *text, eos], 1 + len(image))

    return draw


def next_token_loss(
    model: ChameleonForConditionalGeneration, batch: list[Document], *, pad: int, gated: bool
) -> torch.Tensor:
    """Mean loss over all tokens of both modalities.

    The model's own forward cannot give it: it overwrites the logits of image tokens.
    """
    ids, targets = padded([document.ids for document in batch], pad=pad)
    mask = gate(ids.shape[1], [document.text_from for document in batch]) if gated else None
    states = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    known = targets != -100
    return F.cross_entropy(model.lm_head(states[known]), targets[known])


def gate(width: int, text_from: list[int | None], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Causal masks (n, 1, width, width) to add: text that begins at `text_from` cannot see the image tokens before it.

    The end of image, one place before the text, stays visible: it is the only way from the image to the text.
    """
    allowed = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(text_from), 1, 1)
    for i, start in enumerate(text_from):
        if start is not None:
            allowed[i, start:, start - 1 - N_IMAGE : start - 1] = False
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
