"""A frozen tower in a training of several epochs: it sees each picture once."""

from hashlib import sha256
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

__all__ = ["Remembering"]

ROOM = 2**28  # bytes of features that are kept


class Remembering(nn.Module):
    """A tower that keeps its hidden states at one layer of every picture, known by its pixels, as far as there is room.

    It sees pictures one by one, so that what it makes of one is the same in whatever batch a training goes on.
    """

    def __init__(self, tower: PreTrainedModel, layer: int) -> None:
        super().__init__()
        self.tower, self.layer = tower, layer
        self.kept: dict[bytes, torch.Tensor] = {}
        self.room = ROOM

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor, **options: Any) -> BaseModelOutputWithPooling:
        """The hidden states (pictures, patches, d) under the layer's own number."""
        features = torch.cat([self._seen(one, options) for one in torch.split(pixel_values, 1)])
        return BaseModelOutputWithPooling(hidden_states=cast(Any, {self.layer: features}))

    def _seen(self, pixels: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        key = sha256(pixels.contiguous().cpu().view(torch.uint8).numpy().tobytes()).digest()
        if key not in self.kept:
            features: torch.Tensor = self.tower(pixels, **options).hidden_states[self.layer]
            size = features.numel() * features.element_size()
            if size > self.room:
                return features
            self.room -= size
            self.kept[key] = features
        return self.kept[key]
