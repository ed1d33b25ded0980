"""LLaVA-OneVision: an overview of n x n image tokens, then the image in h lines of w with a newline vector each.

Overview and lines have one placeholder in `input_ids`; h and w follow from the size of the image. `image` holds the
overview first and then the lines; `grid` is that of the lines. The model has no token that ends an image: `boi` and
`eoi` are the `<|im_start|>` and `<|im_end|>` of a prompt `<|im_start|><image><|im_end|>text`, and NULL in any other.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaOnevisionConfig
from transformers.models.llava_onevision.modeling_llava_onevision import get_anyres_image_grid_shape, unpad_image

from actstore_extract.families.family import Family, Lines
from actstore_extract.families.grid import lines
from actstore_extract.families.sample import LayoutError
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Positions

_START, _END = "<|im_start|>", "<|im_end|>"


class LlavaOnevision(Family):
    """The image of a prompt is cut into tiles; several are not."""

    name = "llava_onevision"
    architectures = ("LlavaOnevisionForConditionalGeneration",)
    ragged = frozenset({"pixel_values"})

    def wrappers(self, model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:
        """What begins and ends a turn of a chat: around an image alone only in the prompt form above."""
        known = model.tokenizer.get_vocab()
        begin, end = (frozenset({known[token]} if token in known else ()) for token in (_START, _END))
        return begin, end

    def lines(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],  # noqa: ARG002
        placeholders: Positions,
        block: Positions,  # noqa: ARG002
        inputs: Mapping[str, torch.Tensor],
    ) -> Lines:
        """The overview has no line ends; of several images it is all there is, with a newline vector behind."""
        config = cast(LlavaOnevisionConfig, model.module.config)
        _, side = _tile(config)
        if (inputs.get("batch_num_images", torch.ones(1)) > 1).any():
            if len(placeholders) != side**2 + 1:
                raise LayoutError(f"{len(placeholders)} of {side**2 + 1} image tokens: the prompt was cut")
            return Lines(placeholders[:-1], placeholders[-1:], (side, side))
        grid = _grid(config, inputs["image_sizes"][0].tolist())
        image, eol = lines(placeholders[side**2 :], grid)
        return Lines(np.concatenate([placeholders[: side**2], image]), eol, grid)

    def ends(
        self, model: Wrapped, token_ids: NDArray[np.int64], placeholders: Positions, block: Positions
    ) -> tuple[int | None, int | None]:
        """Both or none: `<|im_end|>` after an image that ends a longer turn is not the image's."""
        boi, eoi = super().ends(model, token_ids, placeholders, block)
        return (boi, eoi) if boi is not None and eoi is not None else (None, None)


def _tile(config: LlavaOnevisionConfig) -> tuple[int, int]:
    """Side of a tile in pixels, and in image tokens."""
    vision: Any = config.vision_config
    return int(vision.image_size), int(vision.image_size // vision.patch_size)


def _grid(config: LlavaOnevisionConfig, size: list[int]) -> tuple[int, int]:
    """Lines, and image tokens per line, of an image of `size` (height, width), as the model makes them.

    The tiles' features lose what was padded around the image and are shrunk if they are too many.
    """
    pixels, side = _tile(config)
    rows, columns = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, pixels)  # type: ignore[no-untyped-call]
    padded = torch.empty(1, rows * side, columns * side, device="meta")
    _, height, width = unpad_image(padded, size).shape  # type: ignore[no-untyped-call]
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(height * width / (most * side**2))
    return (int(height // ratio), int(width // ratio)) if ratio > 1.1 else (height, width)


FAMILY = LlavaOnevision()
