"""LLaVA-OneVision: an overview of n x n image tokens, then the image in h lines of w with a newline vector each.

As LLaVA-NeXT, but the lines are shrunk if they are too many. The model has no token that ends an image: `boi` and `eoi`
are the `<|im_start|>` and `<|im_end|>` of a prompt `<|im_start|><image><|im_end|>text`, and NULL in any other.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig

from actstore_extract.families.grid import Lines
from actstore_extract.families.llava_next import LlavaNext, tokens_per_side
from actstore_extract.families.sample import LayoutError
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Positions

_START, _END = "<|im_start|>", "<|im_end|>"


class LlavaOnevision(LlavaNext):
    """The image of a prompt is cut into tiles; several are not."""

    name = "llava_onevision"
    rules = 1
    architectures = ("LlavaOnevisionForConditionalGeneration",)

    def wrappers(self, model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:
        """What begins and ends a turn of a chat: around an image alone only in the prompt form above."""
        known = model.tokenizer.get_vocab()
        begin, end = (frozenset({known[token]} if token in known else ()) for token in (_START, _END))
        return begin, end

    def lines(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],
        placeholders: Positions,
        block: Positions,
        inputs: Mapping[str, torch.Tensor],
    ) -> Lines:
        """Those of LLaVA-NeXT; of several images the overview is all there is, with a newline vector behind."""
        if (inputs.get("batch_num_images", torch.ones(1)) <= 1).all():
            return super().lines(model, token_ids, placeholders, block, inputs)
        side = tokens_per_side(model.module.config)
        if len(placeholders) != side**2 + 1:
            raise LayoutError(f"{len(placeholders)} of {side**2 + 1} image tokens: the prompt was cut")
        return Lines(placeholders[:-1], placeholders[-1:], (side, side))

    def grid(self, config: PretrainedConfig, size: list[int]) -> tuple[int, int]:
        """That of LLaVA-NeXT, or as many lines as `anyres_max_N` lets through."""
        height, width = super().grid(config, size)
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = math.sqrt(height * width / (most * tokens_per_side(config) ** 2))
        return (int(height // ratio), int(width // ratio)) if ratio > 1.1 else (height, width)

    def ends(
        self, model: Wrapped, token_ids: NDArray[np.int64], placeholders: Positions, block: Positions
    ) -> tuple[int | None, int | None]:
        """Both or none: `<|im_end|>` after an image that ends a longer turn is not the image's."""
        boi, eoi = super().ends(model, token_ids, placeholders, block)
        return (boi, eoi) if boi is not None and eoi is not None else (None, None)


FAMILY = LlavaOnevision()
