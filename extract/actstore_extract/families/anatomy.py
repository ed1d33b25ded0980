"""Where the text decoder of a model is, and what its configuration says of it."""

from collections import deque
from typing import NamedTuple, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from actstore_extract.families.errors import LoadError

__all__ = ["Anatomy", "anatomy", "check_one_sequence", "plain", "says", "several", "stream"]

_INSIDE = ("model", "decoder", "transformer", "language_model", "text_model", "text_decoder", "backbone", "encoder")
_LAYERS = ("layers", "h", "blocks", "layer")
# What decoders call the norm that follows their blocks; that it does is looked at in every forward.
_NORMS = (
    "norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm", "norm_f", "embedding_norm", "ln_out",
    "out_norm", "output_layernorm", "layer_norm", "layernorm",
)  # fmt: skip


class Anatomy(NamedTuple):
    """The decoder, its blocks, and the norm behind the last one: None where the head reads what that one gives."""

    decoder: PreTrainedModel
    layers: nn.ModuleList
    norm: nn.Module | None


def check_one_sequence(config: PretrainedConfig, name: str) -> None:
    """LoadError for an encoder-decoder."""
    if getattr(config, "is_encoder_decoder", False):
        raise LoadError(
            f"{name} is an encoder with a decoder: what the decoder reads of a prompt comes by cross-attention, and "
            "none of its tokens are the prompt's; models run in which all tokens are one sequence"
        )


def anatomy(module: PreTrainedModel) -> Anatomy:
    """The text decoder of a model: the nearest module, from `get_decoder` inwards, that has blocks.

    LoadError for an encoder-decoder, and for a model that has no blocks where decoders have them.
    """
    check_one_sequence(module.config, type(module).__name__)
    start = cast(PreTrainedModel, module.get_decoder())  # type: ignore[no-untyped-call]
    if not isinstance(start, PreTrainedModel):  # ModernBERT's head is called decoder
        start = cast(PreTrainedModel, module.base_model)
    near: deque[tuple[nn.Module, PreTrainedModel]] = deque([(start, start)])
    while near:
        one, decoder = near.popleft()
        layers = next((x for x in map(one._modules.get, _LAYERS) if isinstance(x, nn.ModuleList)), None)
        if layers is not None:
            norm = next((x for x in map(one._modules.get, _NORMS) if x is not None), None)
            return Anatomy(decoder, layers, norm)
        for child in filter(None, map(one._modules.get, _INSIDE)):
            near.append((child, child if isinstance(child, PreTrainedModel) else decoder))
    raise LoadError(
        f"{type(start).__name__} has no {' or '.join(_LAYERS)} here or further inside: "
        "this architecture needs a family of its own, one file in actstore_extract/families"
    )


def plain(config: PretrainedConfig, *names: str) -> int | None:
    """The number that a configuration has under the first of these names; None where it has none, or one a layer."""
    for name in names:
        try:
            found = getattr(config, name, None)
        except RuntimeError:  # of a configuration whose layers differ
            continue
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return None


def says(config: PretrainedConfig, key: str) -> bool:
    """Whether a configuration, or one anywhere inside, has this key."""

    def inside(value: object) -> bool:
        if isinstance(value, dict):
            return key in value or any(map(inside, value.values()))
        return isinstance(value, list | tuple) and any(map(inside, value))

    return inside(config.to_dict())


def several(config: PretrainedConfig) -> str | None:
    """Which one stands for a residual stream that is several; None in a model of one.

    Hyper-connections (DeepSeek-V4, GLM-5-Next, Qwen4-Exp) carry copies that begin as the embedding: their mean, which
    is what GLM-5-Next's own norm reads. AltUp (Gemma 3n) carries one to compute on and guesses of it: that one.
    """
    if (n := plain(config, "hc_mult", "hc_count")) is not None:
        return f"the mean of {n}"
    if (n := plain(config, "altup_num_inputs")) is not None:
        return f"number {plain(config, 'altup_active_idx') or 0} of {n}"
    return None


def stream(config: PretrainedConfig, x: torch.Tensor) -> torch.Tensor:
    """The residual stream (samples, slots, d) in what a block, or the norm, receives."""
    side_by_side = plain(config, "hc_count")
    if side_by_side and x.ndim == 3 and x.shape[2] == side_by_side * (plain(config, "hidden_size") or 0):
        return x.reshape(*x.shape[:2], side_by_side, -1).mean(2)
    if x.ndim == 4 and plain(config, "hc_mult") == x.shape[2]:
        return x.mean(2)
    if x.ndim == 4 and plain(config, "altup_num_inputs") == x.shape[0]:
        return x[plain(config, "altup_active_idx") or 0]
    return x
