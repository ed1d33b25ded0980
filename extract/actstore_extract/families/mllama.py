"""Mllama (Llama 3.2 Vision): text attends to the image by cross-attention, and no token of the prompt is the image.

The one `<|image|>` of a prompt says from where on the text sees the image. It is machinery, and roles of the image are
NULL; those of the text are as in any other model.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from actstore_extract.families.family import Family
from actstore_extract.families.sample import LayoutError
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import ImageSpan, Positions


class Mllama(Family):
    """Some of its blocks attend to the image, and to no token."""

    name = "mllama"
    rules = 2
    architectures = ("MllamaForConditionalGeneration",)

    def spans(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],
        inputs: Mapping[str, torch.Tensor],  # noqa: ARG002
        blocks: Sequence[Positions] | None,  # noqa: ARG002
        n: int,
    ) -> list[ImageSpan]:
        """What points to each of the n images."""
        places = np.flatnonzero(token_ids == model.image_token_id)
        if len(places) != n:
            raise LayoutError(f"{len(places)} of {n} tokens point to images: the prompt was cut")
        none = places[:0]
        return [ImageSpan(places[i : i + 1], none, none, None, None, None) for i in range(n)]

    def notes(self, model: Wrapped) -> list[str]:
        """That there are no roles of the image."""
        where = ", ".join(map(str, model.module.config.get_text_config().cross_attention_layers))
        name = type(model.module).__name__
        return [f"{name}: its image is no token, and has no roles; the text attends to it in blocks {where}"]


FAMILY = Mllama()
