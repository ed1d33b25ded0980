"""LLaVA-NeXT and its kin: an overview of n x n image tokens, then the image in h lines of w with a newline vector each.

Overview and lines have one placeholder in `input_ids`; h and w follow from the size of the image. `image` holds the
overview first and then the lines, `eol` the newlines; `grid` is that of the lines. Nothing begins or ends an image.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

from actstore_extract.families.family import Family
from actstore_extract.families.grid import Lines, lines
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Positions


class LlavaNext(Family):
    """One image per prompt, which is cut into tiles."""

    name = "llava_next"
    rules = 2
    architectures: ClassVar[tuple[str, ...]] = (
        "Granite4VisionForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlavaNextVideoForConditionalGeneration",
    )
    separators = frozenset({"image_newline"})
    ragged = frozenset({"pixel_values"})

    def lines(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],  # noqa: ARG002
        placeholders: Positions,
        block: Positions,  # noqa: ARG002
        inputs: Mapping[str, torch.Tensor],
    ) -> Lines:
        """The overview has no line ends."""
        side = tokens_per_side(model.module.config)
        grid = self.grid(model.module.config, inputs["image_sizes"][0].tolist())
        image, eol = lines(placeholders[side**2 :], grid)
        return Lines(np.concatenate([placeholders[: side**2], image]), eol, grid)

    def grid(self, config: PretrainedConfig, size: list[int]) -> tuple[int, int]:
        """Lines, and image tokens per line, of an image of `size` (height, width), as the model makes them: the tiles'
        features lose what was padded around the image."""
        side = tokens_per_side(config)
        rows, columns = get_anyres_image_grid_shape(  # type: ignore[no-untyped-call]
            size, config.image_grid_pinpoints, config.vision_config.image_size
        )
        padded = torch.empty(1, rows * side, columns * side, device="meta")
        _, height, width = unpad_image(padded, size).shape  # type: ignore[no-untyped-call]
        return int(height), int(width)


def tokens_per_side(config: PretrainedConfig) -> int:
    """Image tokens along a side of a tile."""
    vision: Any = config.vision_config
    side = vision.image_size // vision.patch_size
    return int(side * Fraction(getattr(config, "downsample_rate", None) or 1))


FAMILY = LlavaNext()
