"""DeepSeek-OCR 2: image tokens of its tiles, then those of an overview, then a separator with the same placeholder.

Image tokens are learned queries that read an image in an order of their own, so there is no grid. Nothing declares what
would begin or end an image.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from actstore_extract.families.family import Family
from actstore_extract.families.grid import Lines
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Positions


class DeepseekOcr2(Family):
    """The last placeholder is the separator."""

    name = "deepseek_ocr2"
    rules = 2
    architectures = ("DeepseekOcr2ForConditionalGeneration",)
    separators = frozenset({"view_separator"})

    def lines(
        self,
        model: Wrapped,  # noqa: ARG002
        token_ids: NDArray[np.int64],  # noqa: ARG002
        placeholders: Positions,
        block: Positions,  # noqa: ARG002
        inputs: Mapping[str, torch.Tensor],  # noqa: ARG002
    ) -> Lines:
        """All but the separator."""
        return Lines(placeholders[:-1], placeholders[:0], None)


FAMILY = DeepseekOcr2()
