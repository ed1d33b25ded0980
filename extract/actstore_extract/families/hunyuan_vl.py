"""HunYuan-VL: image tokens in lines, each with a newline vector, between a begin vector and an end vector.

All of these have the placeholder of image tokens. `image` are those that are no such vectors, `eol` the newlines; `boi`
and `eoi` are the tokens that its chat template writes around them all.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from actstore_extract.families.family import Family
from actstore_extract.families.grid import Lines, lines
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Positions


class HunYuanVL(Family):
    """The lines follow from the patches that the processor counts."""

    name = "hunyuan_vl"
    rules = 2
    architectures = ("HunYuanVLForConditionalGeneration",)
    separators = frozenset({"image_begin", "image_end", "image_newline", "image_sep"})

    def lines(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],  # noqa: ARG002
        placeholders: Positions,
        block: Positions,  # noqa: ARG002
        inputs: Mapping[str, torch.Tensor],
    ) -> Lines:
        """Between the begin vector and the end vector every line has its newline."""
        merge = model.module.config.vision_config.spatial_merge_size
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        grid = (rows // merge, columns // merge)
        image, eol = lines(placeholders[1:-1], grid)
        return Lines(image, eol, grid)


FAMILY = HunYuanVL()
