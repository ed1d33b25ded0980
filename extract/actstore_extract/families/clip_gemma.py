"""CLIP, one linear adapter and Gemma-2: three checkpoints, run by Llava's forward.

CLIP's last hidden states, its class token left out, go through the adapter and replace the input of block 0 where the
prompt has its image: in the model's training right after `<bos>`, so prompts should begin with the image. A token of
Gemma's vocabulary that no text has stands for them in `input_ids`. Nothing begins or ends an image: `eoi` is NULL.
`actstore train adapter` makes the adapter, between any tower of patches and any causal language model. One that was
trained to put the image in at a later layer (`inject`) says so in its file; the blocks before run on the text alone.

The model is a folder with a file `parts.toml` (or the path of such a file):

    family = "clip_gemma"
    vision = "openai/clip-vit-large-patch14"     # a folder beside this file, or a name on the hub, @revision if wanted
    language = "google/gemma-2-2b-it"
    adapter = "projector.pth"                    # a state dict of one Linear, or a .safetensors of actstore
    scale = "1"                                  # for a .pth, which cannot say it: "1" or "sqrt(d)"
    image_token = "<unused0>"                    # may be left out
"""

import math
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from PIL.Image import fromarray
from torch import nn
from transformers import (
    BaseImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.processing_utils import ProcessorMixin

from actstore_extract.families.adapter import SCALES, Adapter, digest, read_adapter
from actstore_extract.families.errors import LoadError
from actstore_extract.families.family import Family
from actstore_extract.families.halves import language_model, n_prefix, vision_tower
from actstore_extract.families.image_settings import change
from actstore_extract.families.parts import Parts
from actstore_extract.families.pretrained import keep_unplaced, unplaced
from actstore_extract.families.sample import MARKER, LayoutError, Prompt
from actstore_extract.families.wrapped import Wrapped

__all__ = ["ClipGemmaModel", "assemble", "processor"]

_IMAGE_TOKEN = "<unused0>"  # noqa: S105
_CLEARLY = 3  # times better the other scale has to fit before it is mentioned


class CappedHead(nn.Module):
    """A language-model head like Gemma's, with the soft cap on its logits, which Llava's forward does not know."""

    def __init__(self, linear: nn.Linear, cap: float) -> None:
        super().__init__()
        self.linear, self.cap = linear, cap

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (..., vocabulary) of x (..., d)."""
        return torch.tanh(self.linear(x) / self.cap) * self.cap


class ClipGemmaModel(LlavaForConditionalGeneration):  # type: ignore[no-untyped-call]
    """Llava's forward and generation over other parts; `assemble` makes one.

    inject: the layer at which the image comes in: what runs the model keeps it out of so many blocks.
    """

    inject: int = 0


def assemble(
    vision: PreTrainedModel, language: PreTrainedModel, adapter: Adapter, image_token_id: int
) -> ClipGemmaModel:
    """The parts as one model; LoadError when the adapter is not of their widths."""
    _check(vision, language, adapter)
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_index=image_token_id,
        vision_feature_layer=int(adapter.facts.get("feature_layer", "-1")),
        vision_feature_select_strategy="default" if n_prefix(vision) else "full",  # without the class token
    )
    with torch.device("meta"):  # every part of it is exchanged
        module = ClipGemmaModel(config)
    module.model.vision_tower = vision
    module.model.multi_modal_projector = adapter.to(vision.dtype)
    module.model.language_model = language.get_decoder()  # type: ignore[no-untyped-call]
    head = cast(nn.Linear, language.get_output_embeddings())  # type: ignore[no-untyped-call]
    cap = getattr(language.config, "final_logit_softcapping", None)
    module.lm_head = CappedHead(head, cap) if cap else head
    module.generation_config = language.generation_config
    module.inject = _injected(adapter, language)
    return module


def _injected(adapter: Adapter, language: PreTrainedModel) -> int:
    """The layer at which the adapter's vectors come in; LoadError where there is none."""
    layer, n_layers = int(adapter.facts.get("inject", "0")), language.config.num_hidden_layers
    if not 0 <= layer < n_layers:
        raise LoadError(f"inject {layer}: an image comes in at layer 0 to {n_layers - 1}, in front of a block")
    return layer


def processor(
    images: BaseImageProcessor, words: PreTrainedTokenizerBase, module: ClipGemmaModel, image_token: str = _IMAGE_TOKEN
) -> LlavaProcessor:
    """CLIP's image processor, set as the adapter was trained with it, and Gemma's tokenizer, one `image_token` of it
    for each patch."""
    words.add_tokens([image_token], special_tokens=True)  # it is there: this keeps the tokenizer from cutting it up
    strategy = module.config.vision_feature_select_strategy
    adapter = cast(Adapter, module.model.multi_modal_projector)
    made = LlavaProcessor(  # type: ignore[no-untyped-call]
        images,
        words,
        patch_size=module.model.vision_tower.config.patch_size * adapter.pool,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(strategy == "default"),
        image_token=image_token,
    )
    change(made, adapter.processor)
    return made


def _check(vision: PreTrainedModel, language: PreTrainedModel, adapter: Adapter) -> None:
    widths = adapter.linear.in_features, adapter.linear.out_features
    wanted = vision.config.hidden_size, language.config.hidden_size
    if widths != wanted:
        raise LoadError(
            f"the adapter maps {widths[0]} to {widths[1]} numbers; these models need {wanted[0]} to {wanted[1]}"
        )
    for name, module in (("vision", vision), ("language", language.get_decoder())):  # type: ignore[no-untyped-call]
        said = adapter.facts.get(f"{name}_digest")
        # float16 rounds otherwise, so its digest says nothing
        if said is not None and module.dtype != torch.float16 and said != digest(module):
            raise LoadError(f"the adapter was trained with another {name} model: {adapter.facts.get(name, said)}")


class ClipGemma(Family):
    """The model that maps CLIP's features into Gemma's."""

    name = "clip_gemma"
    architectures = ("ClipGemmaModel",)
    parts = ("vision", "language")

    def n_image_tokens(self, model: Wrapped, inputs: Mapping[str, torch.Tensor]) -> int:
        """One per patch, or per square of patches, of the picture as the processor gives it: 256 of CLIP ViT-L/14."""
        height, width = inputs["pixel_values"].shape[-2:]
        patch: int = model.module.config.vision_config.patch_size
        pool = int(cast(LlavaProcessor, model.processor).patch_size) // patch
        if pool > 1 and (height != width or height // patch % pool):
            raise LayoutError(
                f"the adapter takes {pool} x {pool} patches together, and a picture of {height} x {width} pixels is no "
                f"square of them: set size and crop_size of the processor to a multiple of {pool * patch}"
            )
        return int(height // patch // pool) * int(width // patch // pool)

    def wrappers(self, model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:  # noqa: ARG002
        """None: what stands around the image is text."""
        return frozenset(), frozenset()

    def assemble(self, parts: Parts, options: Mapping[str, object]) -> tuple[PreTrainedModel, ProcessorMixin]:
        """The model that a parts file names; `options` go to the language model, their dtype to all."""
        parts.check(needed=(*self.parts, "adapter"), optional=("scale", "image_token"))
        adapter = read_adapter(parts.path("adapter"), scale=parts.entries.get("scale"))
        (vision_path, vision_revision), (language_path, revision) = parts.model("vision"), parts.model("language")
        vision, images = vision_tower(vision_path, vision_revision, options["dtype"])
        language, words = language_model(language_path, revision, **options)
        token = parts.entries.get("image_token", _IMAGE_TOKEN)
        if token not in words.get_vocab():
            raise LoadError(f"{parts.file}: {language_path} has no token {token!r}: set image_token to one of its own")
        device = cast(torch.Tensor, language.get_input_embeddings().weight).device
        vision.to(device)  # type: ignore[arg-type]
        module = assemble(vision, language, adapter.to(device), cast(int, words.convert_tokens_to_ids(token)))
        keep_unplaced(module, unplaced(language))  # of the tower's checkpoint half is left out as a matter of course
        return module, processor(images, words, module, token)

    def on_logits(self, model: Wrapped) -> list[tuple[float, float | None]]:
        """Gemma's soft cap, which is in the head."""
        return [(1.0, getattr(model.module.lm_head, "cap", None))]

    def notes(self, model: Wrapped) -> list[str]:
        """Whether the adapter's other scale would fit better: its vectors should be about as long as those of words."""
        adapter = cast(Adapter, cast(ClipGemmaModel, model.module).model.multi_modal_projector)
        other = next(name for name in SCALES if name != adapter.scale)
        ratio = _length_of_images(model) / _length_of_words(model)
        there = ratio * SCALES[other](model.d_model) / adapter.factor
        if abs(math.log(there)) + math.log(_CLEARLY) > abs(math.log(ratio)):
            return []
        lengths = (
            f"vectors of a picture are {ratio:.2g} times as long as those of words; with {other!r} {there:.2g} times"
        )
        return [f"adapter scale {adapter.scale!r}: {lengths}. See that the scale is the one of its training"]

    def facts(self, model: Wrapped) -> dict[str, object]:
        """Scale and training of the adapter, and which models it stands between."""
        module = cast(ClipGemmaModel, model.module).model
        adapter = cast(Adapter, module.multi_modal_projector)
        parts = {"vision": module.vision_tower, "language": module.language_model}
        revisions = {f"{name}_revision": getattr(part.config, "_commit_hash", None) for name, part in parts.items()}
        own = {**adapter.facts, "scale": adapter.scale, "digest": digest(adapter.linear)}
        return {"adapter": own, "inject": cast(ClipGemmaModel, model.module).inject, **revisions}


@torch.no_grad()
def _length_of_images(model: Wrapped) -> float:
    """The median norm of what the adapter makes of the patches of a picture of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    batch = model.collate([model.encode(Prompt("noise", MARKER, fromarray(pixels)))])
    features = cast(ClipGemmaModel, model.module).model.get_image_features(batch.inputs["pixel_values"])
    return float(features.pooler_output[0].float().norm(dim=-1).median())


@torch.no_grad()
def _length_of_words(model: Wrapped) -> float:
    """The median norm of some words' vectors as block 0 receives them."""
    table = cast(nn.Embedding, model.module.get_input_embeddings())
    some = torch.linspace(0, table.num_embeddings - 1, min(512, table.num_embeddings), device=table.weight.device)
    return float(table(some.long()).float().norm(dim=-1).median())


FAMILY = ClipGemma()
