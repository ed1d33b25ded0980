"""BLIP-2 and InstructBLIP: the processor puts the image tokens in front of every prompt, and takes no marker for them.

Image tokens are learned queries, whose order is no grid. Nothing begins or ends an image.
"""

from collections.abc import Mapping

import torch
from transformers import BatchFeature

from actstore_extract.families.family import Family
from actstore_extract.families.sample import LayoutError, Prompt
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.pictures import MARKER


class Blip2(Family):
    """Where the language model is a decoder; an encoder-decoder is refused as any is."""

    name = "blip2"
    rules = 2
    architectures = ("Blip2ForConditionalGeneration", "InstructBlipForConditionalGeneration")

    def n_image_tokens(self, model: Wrapped, inputs: Mapping[str, torch.Tensor]) -> int:  # noqa: ARG002
        """One per query."""
        return int(model.module.config.num_query_tokens)

    def marker(self, model: Wrapped) -> str:  # noqa: ARG002
        """The recipe's: the processor takes none."""
        return MARKER

    def process(self, model: Wrapped, prompt: Prompt) -> BatchFeature:
        """As usual, for the text behind the image."""
        if not prompt.images:
            return super().process(model, prompt)
        if len(prompt.images) > 1:
            raise LayoutError(f"{len(prompt.images)} images: {self.name} models take one")
        if not prompt.text.startswith(MARKER):
            raise LayoutError(f"the image of {self.name} models is in front: begin the prompt with {MARKER}")
        return super().process(model, prompt._replace(text=prompt.text.removeprefix(MARKER).lstrip()))


FAMILY = Blip2()
