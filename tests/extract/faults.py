"""Faults that were found in models and in how they were run, put back into the real code, one at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    HunYuanVLConfig,
    HunYuanVLForConditionalGeneration,
    HunYuanVLImageProcessorPil,
    HunYuanVLProcessor,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

import tiny
from actstore_extract.families import Model
from actstore_extract.families.family import Family
from actstore_extract.forward import points, tap

Patch = pytest.MonkeyPatch
IMAGE = {"HunYuanVLForConditionalGeneration": "<|hy_s|><image><|hy_e|>"}  # what stands for one in a prompt


def hunyuan() -> Model:
    """M-RoPE of four axes, one of which counts images over a batch."""
    named = {"image_token": "<|hy_img|>", "image_start_token": "<|hy_s|>", "image_end_token": "<|hy_e|>"}
    words = tiny.tokenizer([*named.values(), "<|hy_n|>"], **named)
    ids = {name: words.convert_tokens_to_ids(token) for name, token in named.items()}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2, 2]}
    vision = {
        "out_hidden_size": tiny.D_MODEL,
        "text_hidden_size": tiny.D_MODEL,
        "patch_size": 4,
        "spatial_merge_size": 2,
    }
    config = HunYuanVLConfig(
        text_config={**tiny.text_config(words), "head_dim": 16, "rope_parameters": rope},
        vision_config={
            **tiny.SMALL_VISION,
            "num_key_value_heads": 2,
            "max_image_size": 32,
            "min_image_size": 16,
            **vision,
        },
        image_token_id=ids["image_token"],
        im_start_id=ids["image_start_token"],
        im_end_id=ids["image_end_token"],
        im_newline_id=words.convert_tokens_to_ids("<|hy_n|>"),
    )
    torch.manual_seed(0)
    size = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
    images = HunYuanVLImageProcessorPil(size=size, patch_size=4, merge_size=2)
    return Model(tiny.spread(HunYuanVLForConditionalGeneration(config)), HunYuanVLProcessor(images, words))


def renamed(model: Model, patch: Patch) -> None:
    """While attention is read its implementation has another name, which is not one that the model knows."""

    def around(kernel: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
        def forward(module: nn.Module, *args: torch.Tensor, **kwargs: object) -> tuple[torch.Tensor, None]:
            own = AttentionInterface().get_interface(kernel, None)
            return own(module, *args, **kwargs)

        return forward

    @contextmanager
    def switched(model: Model) -> Iterator[None]:
        before = model.decoder.config._attn_implementation
        AttentionInterface.register("renamed", around(before))
        AttentionMaskInterface.register("renamed", ALL_MASK_ATTENTION_FUNCTIONS[before])
        model.decoder.set_attn_implementation({"": "renamed"})
        try:
            with handed_on(model):
                yield
        finally:
            model.decoder.set_attn_implementation({"": before})

    handed_on = tap._handed_on
    patch.setattr(tap, "KERNELS", ("sdpa", "eager", "renamed"))
    patch.setattr(tap, "_handed_on", switched)


def plain_position_ids(model: Model, patch: Patch) -> None:
    """Given to a model that makes its own of several axes."""
    own = model.kind.collate

    def collate(*args: object, **options: object) -> dict[str, torch.Tensor]:
        inputs = own(*args, **options)
        return {**inputs, "position_ids": (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)}

    patch.setattr(model.kind, "collate", collate)


def other_tokens(model: Model, patch: Patch) -> None:
    """Rows of several streams (samples, tokens, 4, d) are taken for those of tokens."""
    patch.setattr(points, "residual", lambda *args: args[1])
    patch.setattr("actstore_extract.forward.capture.residual", lambda *args: args[1])


def norm_twice(model: Model, patch: Patch) -> None:
    """The norm's input is the last point whenever it runs, in front of the blocks too."""
    patch.setattr(points, "_behind", lambda _, *norm_and_see: points._entering(*norm_and_see))


def attention_in_lists(model: Model, patch: Patch) -> None:
    """The list of a block's attentions is taken for its attention: hooks on it never run."""
    patch.setattr(tap, "_attention", lambda block, _: block.self_attn)


def every_placeholder(model: Model, patch: Patch) -> None:
    """What separates lines of patches has the placeholder's id, and is taken for patches."""
    patch.setattr(type(model.kind), "lines", Family.lines)


def patches_as_text(model: Model, patch: Patch) -> None:
    own = model.kind.layout

    def layout(*args: object) -> object:
        one = own(*args)
        return replace(one, image=one.image[:-1], text=np.append(one.image[-1:], one.text))

    patch.setattr(model.kind, "layout", layout)


def picture_elsewhere(model: Model, patch: Patch) -> None:
    """The image token is a word that points to a picture, and what enters block 0 is that word."""
    own = model.kind.collate

    def collate(*args: object, **options: object) -> dict[str, torch.Tensor]:
        return {name: x for name, x in own(*args, **options).items() if not name.startswith("pixel")}

    patch.setattr(model.kind, "collate", collate)


def a_layer_off(model: Model, patch: Patch) -> None:
    """A residual point is kept as the next one."""
    own = points.at_point
    patch.setattr(
        "actstore_extract.forward.capture.at_point",
        lambda model, point, layer, see: own(model, point, max(layer - 1, 0), see),
    )


def generation_without_the_picture(model: Model, patch: Patch) -> None:
    own = model.module.prepare_inputs_for_generation

    def prepare(*args: object, **kwargs: object) -> dict[str, object]:
        return {**own(*args, **kwargs), "pixel_values": None, "mm_encoder_outputs": None}

    patch.setattr(model.module, "prepare_inputs_for_generation", prepare)


def no_batches(model: Model, patch: Patch) -> None:
    """Samples that cannot be put together."""
    own = model.kind.collate

    def collate(encoded: list[object], *args: object, **options: object) -> dict[str, torch.Tensor]:
        if len(encoded) > 1:
            raise RuntimeError("Sizes of tensors must match except in dimension 0")
        return own(encoded, *args, **options)

    patch.setattr(model.kind, "collate", collate)
