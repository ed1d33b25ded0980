"""Tiny models of the real classes with random weights; their words and what they are fed with, handed on."""

import importlib
import string
import sys
from pathlib import Path
from unittest import mock

import torch
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3ImageProcessor,
    Emu3Processor,
    Gemma2Config,
    Gemma2ForCausalLM,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessorPil,
    JanusProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PixtralImageProcessorPil,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from actstore_extract.families import Model
from actstore_extract.families.adapter import Adapter, write_adapter
from actstore_extract.families.clip_gemma import assemble
from actstore_extract.families.clip_gemma import processor as clip_gemma_processor
from tiny_batches import BATCHES, MIXED, SAME, filled, image, prompts  # noqa: F401, handed on as tiny.X
from tiny_words import WORDS, tokenizer  # noqa: F401

torch.set_num_threads(1)  # threads that wait for each other on a busy machine make these models 100 times slower

D_MODEL, N_LAYERS, N_HEADS = 64, 4, 4


def spread(module: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Redraw the decoder's weights widely: near-uniform attention would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        if any(part in name for part in ("vqmodel", "vision_tower", "vision_model")):
            continue
        std = 2.0 if "q_norm" in name or "k_norm" in name else 0.25 if weight.ndim > 1 else None
        if std is not None:
            with torch.no_grad():
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    return module.eval()


def _vq_word(code: int) -> str:
    return "IMGIMG" + "".join(string.ascii_uppercase[int(digit)] for digit in str(code)) + "Z"


def chameleon(*, swin_norm: bool = False) -> tuple[PreTrainedModel, ProcessorMixin]:
    """16 image tokens of an 8 x 8 image; `swin_norm` is the block order of the 34B model."""
    machinery = ["<image>", "<racm3:break>", "<eoss>", "<reserved08706>", *map(_vq_word, range(16))]
    words = tokenizer(
        machinery, image_token="<image>", boi_token="<racm3:break>", eoi_token="<eoss>", sep_token="<reserved08706>"
    )
    torch.manual_seed(0)
    config = ChameleonConfig(
        vocab_size=len(words),
        hidden_size=D_MODEL,
        intermediate_size=96,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=2,
        max_position_embeddings=256,
        swin_norm=swin_norm,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        vocabulary_map=words.get_vocab(),
        vq_config={
            "embed_dim": 8,
            "latent_channels": 8,
            "num_embeddings": 16,
            "resolution": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
        },
    )
    images = ChameleonImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = ChameleonProcessor(images, words, image_seq_length=16)
    return spread(ChameleonForConditionalGeneration(config)), processor


def chameleon_swin() -> tuple[PreTrainedModel, ProcessorMixin]:
    return chameleon(swin_norm=True)


def text_config(words: PreTrainedTokenizerFast, **others: object) -> dict[str, object]:
    """What the text decoders have in common."""
    return {
        "vocab_size": len(words),
        "hidden_size": D_MODEL,
        "intermediate_size": 96,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        **others,
    }


SMALL_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def emu3() -> tuple[PreTrainedModel, ProcessorMixin]:
    """16 image tokens of a 32 x 32 image, which an image of 8 x 8 becomes; 32 of one twice as long."""
    codes = [f"<|visual token {code:06d}|>" for code in range(16)]
    named = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    words = tokenizer([*named.values(), "<|extra_200|>", *codes, "*", *string.digits], bos=None, digits=True, **named)
    torch.manual_seed(0)
    config = Emu3Config(
        text_config=text_config(words),
        vq_config={
            "codebook_size": 16,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [3],
            "hidden_size": 32,
            "num_attention_heads": 1,
            "temporal_downsample_factor": 4,
        },
        vocabulary_map=words.get_vocab(),
    )
    images = Emu3ImageProcessor(min_pixels=32 * 32, max_pixels=32 * 64)
    return spread(Emu3ForConditionalGeneration(config)), Emu3Processor(images, words)


class ImagesOnly(LlavaOnevisionProcessor):
    """The real processor without its half for videos, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
        if argument_name == "video_processor":
            return None
        return super().check_argument_for_proper_class(argument_name, argument)

    def save_pretrained(self, folder: Path) -> None:
        """As the published checkpoints are kept."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / "processor_config.json").write_text('{"processor_class": "LlavaOnevisionProcessor"}')


def llava_onevision_processor(images: ProcessorMixin, words: PreTrainedTokenizerFast) -> ProcessorMixin:
    options = {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}
    if not is_torchvision_available():
        return ImagesOnly(images, words, None, **options)
    videos = importlib.import_module("transformers").LlavaOnevisionVideoProcessor()
    return LlavaOnevisionProcessor(images, words, videos, **options)


def llava_onevision() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Tiles of 2 x 2 image tokens, up to nine of them: an 8 x 8 image has 4 in the overview and 4 x 4 in lines."""
    pinpoints = [[4 * h, 4 * w] for h in range(1, 5) for w in range(1, 5)]
    words = tokenizer(
        ["<image>", "<video>", "<|im_start|>", "<|im_end|>"],
        bos=None,
        image_token="<image>",
        video_token="<video>",
        begin_token="<|im_start|>",
        end_token="<|im_end|>",
    )
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_config(words)},
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": 4,
            "patch_size": 2,
            "vision_use_head": False,
            **SMALL_VISION,
        },
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_9",
    )
    images = LlavaOnevisionImageProcessorPil(size={"height": 4, "width": 4}, image_grid_pinpoints=pinpoints)
    return spread(LlavaOnevisionForConditionalGeneration(config)), llava_onevision_processor(images, words)


def pixtral_processor(*, torchvision: bool | None = None) -> type[ProcessorMixin]:
    """The real class; without torchvision (None: as it is here), one function of its module comes from a twin."""
    real = is_torchvision_available() if torchvision is None else torchvision
    package = "transformers.models.pixtral"
    twin = importlib.import_module(f"{package}.image_processing_pil_pixtral")
    modules = {} if real else {f"{package}.image_processing_pixtral": twin}
    with mock.patch.dict(sys.modules, modules):
        if modules:
            sys.modules.pop(f"{package}.processing_pixtral", None)  # it may have been imported with the other
        return importlib.import_module(f"{package}.processing_pixtral").PixtralProcessor


def pixtral() -> tuple[PreTrainedModel, ProcessorMixin]:
    """A token for each 2 x 2 patch of images up to 16 pixels; heads together wider than the residual stream."""
    named = {"image_token": "[IMG]", "break_token": "[IMG_BREAK]", "end_token": "[IMG_END]"}
    words = tokenizer([*named.values()], **named)
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config={"model_type": "mistral", **text_config(words, head_dim=24, sliding_window=None)},
        vision_config={"model_type": "pixtral", "image_size": 16, "patch_size": 2, **SMALL_VISION},
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    images = PixtralImageProcessorPil(size={"longest_edge": 16}, patch_size={"height": 2, "width": 2})
    processor = pixtral_processor()(images, words, patch_size=2)
    return spread(LlavaForConditionalGeneration(config), seed=1), processor


def janus() -> tuple[PreTrainedModel, ProcessorMixin]:
    """16 image tokens between begin and end."""
    named = {"image_token": "<image>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer([*named.values()], padding="left", **named)
    torch.manual_seed(0)
    config = JanusConfig(
        text_config={"model_type": "llama", **text_config(words)},
        vision_config={
            "image_size": 8,
            "patch_size": 2,
            "projection_dim": D_MODEL,
            "num_image_tokens": 16,
            **{name: value for name, value in SMALL_VISION.items() if name != "intermediate_size"},
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "num_patches": 4,
            "projection_dim": D_MODEL,
            "image_token_embed_dim": D_MODEL,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    images = JanusImageProcessorPil(size={"height": 8, "width": 8}, min_size=2)
    return spread(JanusForConditionalGeneration(config)), JanusProcessor(images, words, num_image_tokens=16)


def clip_gemma_parts() -> tuple[CLIPVisionModel, Gemma2ForCausalLM, torch.nn.Linear, PreTrainedTokenizerFast]:
    """CLIP's 16 patches, Gemma-2 with a window and soft-caps that act, what goes between them, and its tokenizer."""
    words = tokenizer(["<unused0>", "<start_of_turn>"])
    torch.manual_seed(0)
    language = Gemma2ForCausalLM(
        Gemma2Config(
            **text_config(words, head_dim=16, query_pre_attn_scalar=16, sliding_window=12),
            attn_logit_softcapping=3.0,
            final_logit_softcapping=5.0,
        )
    )
    vision = CLIPVisionModel(CLIPVisionConfig(image_size=8, patch_size=2, projection_dim=16, **SMALL_VISION))
    return vision.eval(), spread(language), torch.nn.Linear(32, D_MODEL), words


def clip_images() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})


def clip_gemma(scale: str = "1") -> tuple[PreTrainedModel, ProcessorMixin]:
    """Three models as one, 16 image tokens, no end token."""
    vision, language, linear, words = clip_gemma_parts()
    module = assemble(vision, language, Adapter(linear, scale), words.convert_tokens_to_ids("<unused0>"))
    return module.eval(), clip_gemma_processor(clip_images(), words, module)


def llava_gemma() -> tuple[PreTrainedModel, ProcessorMixin]:
    """CLIP, a linear adapter and Gemma-2 with a window and soft-caps that act: 16 image tokens, no end token."""
    words = tokenizer(["<image>"], image_token="<image>")
    torch.manual_seed(0)
    text = Gemma2Config(
        vocab_size=len(words),
        hidden_size=D_MODEL,
        intermediate_size=96,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=12,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=5.0,
        max_position_embeddings=256,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=2,
        projection_dim=16,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projector_hidden_act="linear",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = LlavaProcessor(
        images,
        words,
        patch_size=2,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return spread(LlavaForConditionalGeneration(config)), processor


def llama() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model of text alone."""
    words = tokenizer([])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=D_MODEL,
        intermediate_size=96,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    return spread(LlamaForCausalLM(config)), words


SYSTEMS = {
    "chameleon": chameleon,
    "chameleon_swin": chameleon_swin,
    "clip_gemma": clip_gemma,
    "emu3": emu3,
    "janus": janus,
    "llava_gemma": llava_gemma,
    "llava_onevision": llava_onevision,
    "pixtral": pixtral,
}

# The models of the shipped recipes, each with the tiny system of its family.
OF_RECIPES = {
    "chameleon-7b": "chameleon",
    "chameleon-34b": "chameleon_swin",
    "clip-gemma-2-2b": "clip_gemma",
    "emu3": "emu3",
    "janus-1.3b": "janus",
    "llava-1.5-7b": "llava_gemma",
    "llava-onevision-7b": "llava_onevision",
    "pixtral-12b": "pixtral",
}


def model(name: str, **options: object) -> Model:
    """The tiny system of that name, wrapped."""
    module, processor = {**SYSTEMS, "llama": llama}[name]()
    return Model(module, processor, **options)


def save(model: Model, folder: Path) -> None:
    """The tiny system as a folder that `load` takes."""
    if model.family != "clip_gemma":
        model.module.save_pretrained(folder)
        model.processor.save_pretrained(folder)
        return
    vision, language, linear, words = clip_gemma_parts()
    vision.save_pretrained(folder / "vision")
    clip_images().save_pretrained(folder / "vision")
    language.save_pretrained(folder / "language")
    words.save_pretrained(folder / "language")
    write_adapter(folder / "adapter.safetensors", Adapter(linear, "1"))
    (folder / "parts.toml").write_text(
        'family = "clip_gemma"\nvision = "vision"\nlanguage = "language"\nadapter = "adapter.safetensors"\n'
    )
