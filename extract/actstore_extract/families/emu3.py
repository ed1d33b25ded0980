"""Emu3: `<|image start|> H*W <|image token|> image tokens <|extra_201|> <|image end|>`.

The image tokens are VQ codes, H lines of W with a line end each. A line end has the placeholder of the image tokens in
`input_ids`, so lines are known by the size of the image alone. What stands between `<|image start|>` and the image is
the role `image-size`, and `<|extra_201|>`, which ends the frame, `at-frame-end`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature, Emu3ForConditionalGeneration

from actstore_extract.families.family import Family, Lines
from actstore_extract.families.grid import lines
from actstore_extract.families.sample import LayoutError, Prompt
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Layout, Positions


class Emu3(Family):
    """Images of two sizes never share a batch: the VQ encoder would see the padding, and other codes come out."""

    name = "emu3"
    architectures = ("Emu3ForConditionalGeneration",)
    wrapped = True

    def process(self, model: Wrapped, prompt: Prompt) -> BatchFeature:
        """As usual, but for images of 1 or 3 lines, which the processor would take for colours, and without the token
        that begins a chat, which it puts in front of every text."""
        for image in prompt.images:
            if image.height in (1, 3):
                size = f"{image.width} x {image.height}"
                raise LayoutError(f"an image of {size} pixels, whose lines Emu3 takes for colours")
        begin = str(model.tokenizer.bos_token)
        return super().process(model, prompt._replace(text=prompt.text.removeprefix(begin)) if prompt.chat else prompt)

    def lines(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],  # noqa: ARG002
        placeholders: Positions,
        block: Positions,  # noqa: ARG002
        inputs: Mapping[str, torch.Tensor],
    ) -> Lines:
        """Every (W + 1)-th placeholder ends a line."""
        module = cast(Emu3ForConditionalGeneration, model.module)
        height, width = (inputs["image_sizes"][0] // module.model.vqmodel.vision_spatial_factor).tolist()
        image, eol = lines(placeholders, (height, width))
        return Lines(image, eol, (height, width))

    def image_words(self, model: Wrapped, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Codes and line ends, as the vocabulary names them."""
        module = cast(Emu3ForConditionalGeneration, model.module)
        with torch.no_grad():
            return cast(torch.Tensor, module.model.get_image_tokens(inputs["pixel_values"], inputs["image_sizes"]))

    def ends(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],
        placeholders: Positions,
        block: Positions,  # noqa: ARG002
    ) -> tuple[int, int]:
        """`<|image start|>` stands before the size, `<|image end|>` after the end of the frame."""
        begins, ends = self.wrappers(model)
        start, stop = int(placeholders[0]), int(placeholders[-1]) + 1
        boi = np.flatnonzero(np.isin(token_ids[:start], sorted(begins)))
        if not len(boi) or token_ids[start - 1] != _id(model, "image_wrapper_token"):
            raise LayoutError("no image start and size in front of the image: the prompt was cut")
        if len(token_ids) < stop + 2 or token_ids[stop] != _id(model, "eof_token") or token_ids[stop + 1] not in ends:
            raise LayoutError("no end of frame and image after the image: the prompt was cut")
        return int(boi[-1]), stop + 1

    def layout(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],
        inputs: Mapping[str, torch.Tensor],
        blocks: Sequence[Positions] | None = None,
        n: int = 1,
    ) -> Layout:
        """The usual one, with the image's size and where the frame ends, of one image alone."""
        if n > 1:
            raise LayoutError(f"{n} images in the prompt: Emu3 is run with one")
        layout = super().layout(model, token_ids, inputs, blocks)
        assert layout.boi is not None
        assert layout.eoi is not None
        size = np.arange(layout.boi + 1, layout.image[0])
        return replace(layout, size=size, special={"frame-end": layout.eoi - 1})


def _id(model: Wrapped, name: str) -> int:
    """Id of one of the tokens that Emu3's tokenizer names."""
    return int(getattr(model.tokenizer, f"{name}_id"))


FAMILY = Emu3()
