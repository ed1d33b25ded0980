"""Janus: `<begin_of_image> image tokens <end_of_image>`, always the same number of them.

Its processor pads on the left and may put a system prompt in front, which then is part of `text_before`; samples are
encoded one by one, so the padding is ours.
"""

from collections.abc import Mapping
from typing import cast

import torch
from transformers import JanusProcessor

from actstore_extract.families.family import Family
from actstore_extract.families.wrapped import Wrapped


class Janus(Family):
    """The half of Janus that reads images; the other, which draws them, is not used."""

    name = "janus"
    architectures = ("JanusForConditionalGeneration",)
    wrapped = True

    def n_image_tokens(self, model: Wrapped, inputs: Mapping[str, torch.Tensor]) -> int:  # noqa: ARG002
        """576 in the published models."""
        return int(cast(JanusProcessor, model.processor).num_image_tokens)


FAMILY = Janus()
