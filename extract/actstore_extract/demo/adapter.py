"""The mapped model: a linear adapter from CLIP patches into the frozen language model, by `actstore train adapter`."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma2ForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers import PreTrainedTokenizerFast as Tokenizer

from actstore_extract.demo.corpus import Corpus
from actstore_extract.demo.folders import image_processor
from actstore_extract.families.adapter import Adapter, read_adapter
from actstore_extract.samples.table import Table
from actstore_extract.training.adapter import ADAPTER, drawn
from actstore_extract.training.program import train_adapter
from actstore_extract.training.recipe import AdapterRecipe, DataSection, load

__all__ = ["CaptionRecipe", "adapter_weights", "assemble", "recipe_of", "train"]

N_IMAGE = 16
FEATURE_LAYER = -2  # what the last layer makes of patches was never read in CLIP's training
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}"


@dataclass(frozen=True)
class CaptionRecipe:
    """Sentences after `<s> image :`, drawn once for each copy of a scan; the rest is that of `digits-adapter`."""

    batch: int = 64
    epochs: int = 3
    sentences: tuple[int, int] = (1, 3)
    digit_first: float = 0.6


def train(
    recipe: CaptionRecipe,
    clip: CLIPModel,
    language_model: Gemma2ForCausalLM,
    tokenizer: Tokenizer,
    data: Corpus,
    folder: Path,
    *,
    rng: np.random.Generator,
    steps_scale: float,
) -> tuple[Adapter, Adapter]:
    """The adapter as it was drawn, and as it was trained; `folder` holds what the training reads and writes."""
    vision = CLIPVisionModel(cast(CLIPVisionConfig, clip.config.vision_config))
    vision.load_state_dict(clip.vision_model.state_dict())
    vision.save_pretrained(folder / "vision")
    image_processor().save_pretrained(folder / "vision")
    language_model.save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    table = _table(recipe, data, tokenizer, folder, rng)
    made = recipe_of(recipe, folder, table, limit=max(2 * recipe.batch, round(len(data.images) * steps_scale)))
    train_adapter(made, folder / "adapter", device="cpu", say=print)
    first = drawn(vision.config.hidden_size, language_model.config.hidden_size, made.seed)
    return first, read_adapter(folder / "adapter" / ADAPTER)


def recipe_of(recipe: CaptionRecipe, folder: Path, table: Path, *, limit: int) -> AdapterRecipe:
    """The recipe that ships as `digits-adapter`, with parts in a folder and the captions in a table."""
    base = load("digits-adapter", AdapterRecipe)
    parts = {"vision": str(folder / "vision"), "language": str(folder / "language"), "chat_template": TEMPLATE}
    samples = Table(source="table", path=table, limit=limit, shuffle=base.seed)
    how = {"batch_size": recipe.batch, "micro_batch": recipe.batch, "epochs": recipe.epochs, "max_length": 64}
    changes = {
        "model": base.model.model_copy(update=parts),
        "data": {"captions": DataSection(samples=samples, prompt="<image> :", answer=" {caption}")},
        "training": base.training.model_copy(update=how),
    }
    return base.model_copy(update=changes)


def _table(recipe: CaptionRecipe, data: Corpus, tokenizer: Tokenizer, folder: Path, rng: np.random.Generator) -> Path:
    """A row for each image of the corpus, and the images beside it; the path of the table."""
    (folder / "images").mkdir()
    grey = torch.round((data.images + 1) * 127.5).to(torch.uint8)  # the processor's scale, undone
    for i, pixels in enumerate(grey.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    told = [
        data.captions.text(i, rng, sizes=recipe.sentences, digit_first=recipe.digit_first) for i in range(len(grey))
    ]
    captions = [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in told]
    names = [f"images/{i}.png" for i in range(len(grey))]
    pl.DataFrame({"image": names, "caption": captions}).write_parquet(folder / "captions.parquet")
    return folder / "captions.parquet"


def assemble(
    clip: CLIPModel, language_model: Gemma2ForCausalLM, ids: dict[str, int], adapter: Adapter
) -> LlavaForConditionalGeneration:
    """All parts in one model."""
    config = LlavaConfig(
        vision_config=clip.config.vision_config,
        text_config=language_model.config,
        image_token_index=ids["<image>"],
        image_seq_length=N_IMAGE,
        projector_hidden_act="linear",  # two linear maps with nothing between them are one
        vision_feature_select_strategy="default",
        vision_feature_layer=FEATURE_LAYER,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        projector.linear_1.load_state_dict(adapter.linear.state_dict())
        nn.init.eye_(projector.linear_2.weight)
        nn.init.zeros_(projector.linear_2.bias)
    model.tie_weights()
    return model.requires_grad_(False)


def adapter_weights(model: LlavaForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names they have in the model, in half precision."""
    return {
        name: tensor.to(torch.float16, copy=True)
        for name, tensor in model.state_dict().items()
        if "multi_modal_projector" in name
    }
