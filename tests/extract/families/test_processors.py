"""Two processors need torchvision; what stands in for them gives the same: written out, and beside the real ones.

The test beside the real ones runs where torchvision is.
"""

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import (
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    PixtralImageProcessorPil,
    PreTrainedTokenizerFast,
)
from transformers.models.llava_onevision.modeling_llava_onevision import get_anyres_image_grid_shape, unpad_image
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

import tiny

SIZES = [(8, 8), (16, 8), (8, 16), (5, 9), (16, 2), (13, 7)]
WORDS = ["this", "digit", "is", "a"]


def pixtral(words: PreTrainedTokenizerFast, images: PixtralImageProcessorPil, size: tuple[int, int]) -> list[str]:
    """Tokens of one image in front of the words, written out."""
    ratio = max(size) / 16  # the longest edge
    width, height = (int(np.floor(edge / ratio)) if ratio > 1 else edge for edge in size)
    columns, rows = (-(-edge // 2) for edge in (width, height))
    lines = [*["[IMG]"] * columns, "[IMG_BREAK]"] * rows
    return ["<s>", *lines[:-1], "[IMG_END]", *WORDS]


def llava_onevision(
    words: PreTrainedTokenizerFast, images: LlavaOnevisionImageProcessorPil, size: tuple[int, int]
) -> list[str]:
    """The overview's 2 x 2, then the lines of the tiles without padding, each with its end, by the model's code."""
    rows, columns = (2 * n for n in get_anyres_image_grid_shape(size[::-1], images.image_grid_pinpoints, 4))
    kept = unpad_image(torch.zeros(1, rows, columns), size[::-1])
    return ["<image>"] * (4 + kept.shape[1] * (kept.shape[2] + 1)) + WORDS


WRITTEN: dict[str, Callable[..., list[str]]] = {"pixtral": pixtral, "llava_onevision": llava_onevision}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WRITTEN)
def test_tokens_and_pixels_written_out(name: str, size: tuple[int, int]) -> None:
    processor = tiny.SYSTEMS[name]()[1]
    words, images, picture = processor.tokenizer, processor.image_processor, tiny.image(1, size)
    marker = processor.image_token
    found = processor(text=[f"{marker} this digit is a"], images=[picture], return_tensors="pt")
    assert words.convert_ids_to_tokens(found.input_ids[0].tolist()) == WRITTEN[name](words, images, size)
    own = images([picture], return_tensors="pt")
    assert torch.equal(found.pixel_values, own.pixel_values)
    assert torch.equal(torch.as_tensor(found.image_sizes), torch.as_tensor(own.image_sizes))


def real(name: str) -> ProcessorMixin:
    """The processor as a user with torchvision has it."""
    transformers, (_, mine) = importlib.import_module("transformers"), tiny.SYSTEMS[name]()
    if name == "pixtral":
        images = transformers.PixtralImageProcessor(size={"longest_edge": 16}, patch_size={"height": 2, "width": 2})
        return transformers.PixtralProcessor(images, mine.tokenizer, patch_size=2)
    pinpoints = mine.image_processor.image_grid_pinpoints
    images = transformers.LlavaOnevisionImageProcessor(size={"height": 4, "width": 4}, image_grid_pinpoints=pinpoints)
    videos = transformers.LlavaOnevisionVideoProcessor()
    options = {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}
    return LlavaOnevisionProcessor(images, mine.tokenizer, videos, **options)


def stand_in(name: str) -> ProcessorMixin:
    """The one of a machine without torchvision."""
    mine = tiny.SYSTEMS[name]()[1]
    if name == "pixtral":
        return tiny.pixtral_processor(torchvision=False)(mine.image_processor, mine.tokenizer, patch_size=2)
    options = {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}
    return tiny.ImagesOnly(mine.image_processor, mine.tokenizer, None, **options)


@pytest.mark.skipif(not is_torchvision_available(), reason="torchvision is not there")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WRITTEN)
def test_beside_the_real_ones(name: str, size: tuple[int, int]) -> None:
    found, expected = (
        each(text=[f"{each.image_token} this digit is a"], images=[tiny.image(1, size)], return_tensors="pt")
        for each in (stand_in(name), real(name))
    )
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(torch.as_tensor(found.image_sizes), torch.as_tensor(expected.image_sizes))
    assert found.pixel_values.shape == expected.pixel_values.shape
    resized = found.pixel_values - expected.pixel_values
    assert resized.abs().max() < 0.1  # Pillow and torchvision round a resized picture otherwise
