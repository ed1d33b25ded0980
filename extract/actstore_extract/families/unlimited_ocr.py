"""Unlimited-OCR: lines of image tokens with a newline vector each, then a separator, all with one placeholder."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature

from actstore_extract.families.family import Family
from actstore_extract.families.grid import Lines, lines
from actstore_extract.families.sample import LayoutError, Prompt
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Positions


class UnlimitedOcr(Family):
    """One view of an image: its forward takes the number of tiles as a list, which no batch of tensors has."""

    name = "unlimited_ocr"
    rules = 2
    architectures = ("UnlimitedOcrForConditionalGeneration",)
    separators = frozenset({"image_newline", "view_separator"})

    def process(self, model: Wrapped, prompt: Prompt) -> BatchFeature:
        """As usual, for images that are not cut into tiles."""
        inputs = super().process(model, prompt)
        if any(inputs.pop("num_local_patches", [0])):
            raise LayoutError("an image that is cut into tiles: set processor = { crop_to_patches = false } in [model]")
        inputs.pop("patches_grid", None)
        return inputs

    def lines(
        self,
        model: Wrapped,  # noqa: ARG002
        token_ids: NDArray[np.int64],  # noqa: ARG002
        placeholders: Positions,
        block: Positions,  # noqa: ARG002
        inputs: Mapping[str, torch.Tensor],  # noqa: ARG002
    ) -> Lines:
        """As many lines as columns, a newline each, and the separator."""
        side = math.isqrt(len(placeholders))
        image, eol = lines(placeholders[:-1], (side, side))
        return Lines(image, eol, (side, side))


FAMILY = UnlimitedOcr()
