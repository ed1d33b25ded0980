"""PaliGemma: image tokens, `<bos>`, text, a line end; the prompt is seen from both sides, what is said from one.

Its processor puts `<bos>` and the line end there and takes no text without an image: that is written here as it writes
it beside one.
"""

from typing import cast

from transformers import BatchFeature

from actstore_extract.families.generic import Generic
from actstore_extract.families.sample import Prompt
from actstore_extract.families.wrapped import Wrapped


class PaliGemma(Generic):
    """PaliGemma 1 and 2."""

    name = "paligemma"
    architectures = ("PaliGemmaForConditionalGeneration",)

    def process(self, model: Wrapped, prompt: Prompt) -> BatchFeature:
        """As usual, and text alone through the tokenizer."""
        if prompt.images or prompt.chat:
            return super().process(model, prompt)
        text = f"{model.tokenizer.bos_token}{prompt.text}\n"
        return cast(BatchFeature, model.tokenizer([text], add_special_tokens=False, return_tensors="pt"))


FAMILY = PaliGemma()
