"""A random model of a real class and of a size that a benchmark needs, as a folder, with images to run it on."""

import string
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    PreTrainedTokenizerFast,
)

from actstore_extract.families import Model

CODES = 16  # image tokens of the vocabulary


class Shape(NamedTuple):
    """Width, blocks and heads of a decoder; an image of `side` x `side` tokens, each `pixels` to a side."""

    width: int
    blocks: int
    heads: int
    inner: int
    side: int
    pixels: int = 2


SMALL = Shape(64, 4, 4, 96, 8)
MIDDLE = Shape(512, 8, 8, 1408, 24)
QUICK = Shape(384, 6, 6, 1024, 16)
SEVEN_B = Shape(4096, 32, 32, 11008, 32, 16)  # Chameleon 7B
ENCODERS = {  # pixels of an image token -> the convolutions that make them one
    2: {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1},
    16: {"base_channels": 128, "channel_multiplier": [1, 1, 2, 2, 4], "num_res_blocks": 2},
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words of one letter, and what Chameleon needs around and in an image."""
    named = {
        "image_token": "<image>",
        "boi_token": "<racm3:break>",
        "eoi_token": "<eoss>",
        "sep_token": "<reserved08706>",
    }
    codes = ["IMGIMG" + "".join(string.ascii_uppercase[int(digit)] for digit in str(i)) + "Z" for i in range(CODES)]
    names = ["<pad>", "<s>", "</s>", "<unk>", *named.values(), *codes, *string.ascii_lowercase]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        extra_special_tokens=named, padding_side="right",
    )  # fmt: skip


def chameleon(
    shape: Shape, dtype: torch.dtype, device: str = "cpu"
) -> tuple[ChameleonForConditionalGeneration, ChameleonProcessor]:
    """Random weights, drawn where they will be used."""
    words, pixels = tokenizer(), shape.pixels * shape.side
    config = ChameleonConfig(
        vocab_size=4096, hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, max_position_embeddings=4096,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, vocabulary_map=words.get_vocab(),
        vq_config={
            "embed_dim": 8, "latent_channels": 8, "num_embeddings": CODES, "resolution": pixels,
            **ENCODERS[shape.pixels],
        },
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            module = ChameleonForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    images = ChameleonImageProcessorPil(
        size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels}, resample=0
    )
    return module, ChameleonProcessor(images, words, image_seq_length=shape.side**2)


def picture(i: int, side: int) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (side, side, 3)).astype(np.uint8))


def prompt(i: int) -> str:
    """`<image>` and 12 to 19 words: samples differ in length."""
    letters = np.random.default_rng(i).choice(list(string.ascii_lowercase), 12 + i % 8)
    return "<image> " + " ".join(letters)


def write(folder: Path, shape: Shape, n_samples: int, dtype: torch.dtype = torch.float32) -> str:
    """The model, the pictures and a table of samples in a folder; returns the text of a recipe that runs them."""
    module, processor = chameleon(shape, dtype)
    module.save_pretrained(folder / "model")
    return beside(folder, processor, shape, n_samples, dtype)


def on_device(folder: Path, shape: Shape, n_samples: int, device: str) -> tuple[str, Model]:
    """The same with a model in bfloat16 on its device, whose weights are not written to disk."""
    module, processor = chameleon(shape, torch.bfloat16, device)
    module.config.save_pretrained(folder / "model")
    return beside(folder, processor, shape, n_samples, torch.bfloat16), Model(module, processor)


def beside(folder: Path, processor: ChameleonProcessor, shape: Shape, n_samples: int, dtype: torch.dtype) -> str:
    """What a model runs on, in the folder; returns the text of the recipe."""
    processor.save_pretrained(folder / "model")
    lines = ["sample_id,image,prompt"]
    for i in range(n_samples):
        picture(i, shape.pixels * shape.side).save(folder / f"{i}.png")
        lines.append(f"s{i},{i}.png,{prompt(i)}")
    (folder / "samples.csv").write_text("\n".join(lines))
    return RECIPE.format(folder=folder, dtype=str(dtype).removeprefix("torch."))


RECIPE = """
[model]
path = "{folder}/model"
dtype = "{dtype}"
[samples]
source = "table"
path = "{folder}/samples.csv"
[capture]
roles = ["eoi", "last-image", "image-mean", "last"]
dtype = "bfloat16"
batch_size = 4
"""
