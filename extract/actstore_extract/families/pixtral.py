"""Pixtral: `[IMG]` for each image token, `[IMG_BREAK]` after each line of them, `[IMG_END]` after the last.

Nothing begins an image. The architecture is Llava's; it is the vision model that makes it Pixtral.
"""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig

from actstore_extract.families.family import Family, Lines
from actstore_extract.families.grid import lines
from actstore_extract.families.sample import LayoutError
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Positions

_BREAK, _END = "[IMG_BREAK]", "[IMG_END]"


class Pixtral(Family):
    """Images of any size share a batch: no patch sees another image, nor the padding."""

    name = "pixtral"
    architectures = ("LlavaForConditionalGeneration",)
    wrapped = True
    ragged = frozenset({"pixel_values"})

    def serves(self, architecture: str, config: PretrainedConfig) -> bool:
        """Not every Llava."""
        vision = getattr(config, "vision_config", None)
        return super().serves(architecture, config) and getattr(vision, "model_type", None) == "pixtral"

    def wrappers(self, model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:
        """`[IMG_END]` alone."""
        return frozenset(), frozenset({_id(model, _END, "image_end_token")})

    def lines(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],
        placeholders: Positions,
        block: Positions,  # noqa: ARG002
        inputs: Mapping[str, torch.Tensor],
    ) -> Lines:
        """The end of the last line is that of the image, and no `eol`."""
        grid = (inputs["image_sizes"][0] // model.module.config.vision_config.patch_size).tolist()
        stop = min(int(placeholders[-1]) + 2, len(token_ids))
        image, ends = lines(np.arange(placeholders[0], stop), grid)
        eol = ends[:-1]
        if not np.array_equal(image, placeholders) or (token_ids[eol] != _id(model, _BREAK, "image_break_token")).any():
            raise LayoutError(f"the lines of the image are not {grid[1]} image tokens and {_BREAK} each")
        return Lines(image, eol, (grid[0], grid[1]))


def _id(model: Wrapped, token: str, name: str) -> int:
    """Id of a token that the processor may call otherwise."""
    return cast(int, model.tokenizer.convert_tokens_to_ids(getattr(model.processor, name, token)))


FAMILY = Pixtral()
