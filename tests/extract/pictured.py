"""Processors of many kinds beside tiny models without weights: where an image is among the tokens, not what it says."""

from collections.abc import Callable
from contextlib import nullcontext
from unittest import mock

import torch
import transformers
from transformers import PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

import tiny
from actstore_extract.families import Model

SQUARE = {"height": 56, "width": 56}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 600,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION}
CELLS = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
FAKE = "<fake_token_around_image>"
TILES = {"size": SQUARE, "crop_to_patches": True, "min_patches": 1}


def made(name: str, *parts: object, **options: object) -> ProcessorMixin:
    """The real processor of that class name; what needs torchvision, its half for videos, may be None."""
    kind = getattr(transformers, f"{name}Processor")
    with mock.patch.object(kind, "check_argument_for_proper_class"):
        return kind(*parts, **options)


def pil(name: str, **options: object) -> object:
    return getattr(transformers, f"{name}ImageProcessorPil")(**options)


def model(name: str, processor: ProcessorMixin, image: str, *, weights: bool = False, **config: object) -> Model:
    """A model of that class, without weights unless asked, whose image token is `image`."""
    kind, words = getattr(transformers, f"{name}ForConditionalGeneration"), processor.tokenizer
    made = kind.config_class(**config)
    for key in ("image_token_id", "image_token_index", "image_patch_id"):
        if hasattr(made, key):
            setattr(made, key, words.convert_tokens_to_ids(image))
    torch.manual_seed(0)
    with nullcontext() if weights else torch.device("meta"):
        return Model(kind(made), processor)


def words(*specials: str, **named: str) -> PreTrainedTokenizerFast:
    """Special tokens are cut out of a text wherever they are, as published tokenizers do."""
    found = tiny.tokenizer([*named.values(), *specials], **named)
    found.add_tokens([*specials], special_tokens=True)
    return found


def idefics3(**options: object) -> Model:
    images = pil("Idefics3", size={"longest_edge": 112}, max_image_size={"longest_edge": 56}, **options)
    processor = made("Idefics3", images, words("<image>", FAKE, "<global-img>", *CELLS), image_seq_len=4)
    text = {"model_type": "llama", **TEXT}
    return model("Idefics3", processor, "<image>", text_config=text, vision_config=VISION, scale_factor=2)


def idefics2(**options: object) -> Model:
    images = pil("Idefics2", size={"shortest_edge": 56, "longest_edge": 56}, **options)
    processor = made("Idefics2", images, words("<image>", FAKE), image_seq_len=4)
    text = {"model_type": "mistral", **TEXT}
    resampler = {"resampler_n_latents": 4, "hidden_size": 32, "resampler_depth": 1}
    return model("Idefics2", processor, "<image>", text_config=text, vision_config=VISION, perceiver_config=resampler)


def aya_vision() -> Model:
    named = ["<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE_GLOBAL", "TILE_1", "TILE_2"]
    options = {"patch_size": 14, "img_size": 56, "downsample_factor": 2}
    processor = made("AyaVision", pil("GotOcr2", **TILES, max_patches=2), words(*named), **options)
    text = {"model_type": "cohere2", **TEXT}
    return model("AyaVision", processor, "<|IMG_PATCH|>", text_config=text, vision_config=SIGLIP)


def internvl(*, max_patches: int) -> Model:
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    images = pil("GotOcr2", **TILES, max_patches=max_patches)
    processor = made("InternVL", images, words(**named, video_token="<video>"), None, image_seq_length=4)
    vision = {**VISION, "image_size": [56, 56], "patch_size": [14, 14]}
    text = {"model_type": "qwen2", **TEXT}
    return model("InternVL", processor, "<IMG_CONTEXT>", text_config=text, vision_config=vision)


def gemma3() -> Model:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    processor = made("Gemma3", pil("Gemma3", size=SQUARE), words(**named), image_seq_length=4)
    text = {"model_type": "gemma3_text", "head_dim": 16, **TEXT}
    return model("Gemma3", processor, "<image_soft_token>", text_config=text, vision_config=SIGLIP)


def qwen2_vl() -> Model:
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    images = pil("Qwen2VL", size={"shortest_edge": 56 * 56, "longest_edge": 168 * 168})
    processor = made("Qwen2VL", images, words("<|vision_start|>", "<|vision_end|>", **named), None)
    around = {f"vision_{n}_token_id": processor.tokenizer.convert_tokens_to_ids(f"<|vision_{n}|>") for n in EDGES}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14}
    return model("Qwen2VL", processor, "<|image_pad|>", text_config=TEXT, vision_config=vision, **around)


EDGES = ("start", "end")


def ovis2() -> Model:
    named = ["<image>", "<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    images = pil("Ovis2", size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=2)
    processor = made("Ovis2", images, words(*named), image_seq_length=4)
    vision = {**VISION, "vocab_size": 64}
    return model("Ovis2", processor, "<IMG_ATOM>", text_config={"model_type": "qwen2", **TEXT}, vision_config=vision)


def paligemma(*, weights: bool = False) -> Model:
    """PaliGemma 2: its projector is as wide as its language model."""
    images = pil("Siglip", size=SQUARE)
    images.image_seq_length = 16
    processor = made("PaliGemma", images, words(image_token="<image>"))
    width = TEXT["hidden_size"]
    text = {"model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 12, **TEXT}
    config = {"text_config": text, "vision_config": {**SIGLIP, "projection_dim": width}, "projection_dim": width}
    return model("PaliGemma", processor, "<image>", weights=weights, **config)


def aria() -> Model:
    images = pil("Aria", max_image_size=980, min_image_size=336)
    processor = made(
        "Aria", images, words("<fim_prefix>", "<fim_suffix>", image_token="<|img|>"), size_conversion={980: 4}
    )
    text = {"moe_num_experts": 2, "moe_topk": 1, "moe_num_shared_experts": 1, "head_dim": 16, **TEXT}
    vision = {"model_type": "idefics3_vision", **VISION, "image_size": 980, "patch_size": 98}
    config = {"text_config": text, "vision_config": vision, "projector_patch_to_query_dict": {"100": 4}}
    return model("Aria", processor, "<|img|>", **config)


def granite_docling() -> Model:
    images = pil("GraniteDocling", size=SQUARE, max_patches=2)
    processor = made("GraniteDocling", images, words("<image>", FAKE, "<global-img>", *CELLS), image_seq_len=1)
    return model("GraniteDocling", processor, "<image>", text_config=TEXT, vision_config={"out_hidden_size": 32})


def mistral3() -> Model:
    named = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    images = pil("Pixtral", size={"longest_edge": 112}, patch_size={"height": 14, "width": 14})
    kind = tiny.pixtral_processor()
    processor = kind(images, words(*named), patch_size=14, spatial_merge_size=2)
    vision = {"model_type": "pixtral", "head_dim": 16, **VISION}
    text = {"model_type": "mistral", **TEXT}
    return model("Mistral3", processor, "[IMG]", text_config=text, vision_config=vision, spatial_merge_size=2)


def minicpm(*, slices: int) -> Model:
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    images = pil("MiniCPMV4_6", scale_resolution=56, max_slice_nums=slices, patch_size=14)
    processor = made("MiniCPMV4_6", images, transformers.MiniCPMV4_6VideoProcessor(), words(**named))
    text = {"model_type": "qwen3_5_text", "head_dim": 16, **TEXT}
    return model("MiniCPMV4_6", processor, "<|image_pad|>", text_config=text, vision_config=VISION)


def llama4() -> Model:
    named = [
        "<|image|>",
        "<|image_start|>",
        "<|image_end|>",
        "<|patch|>",
        "<|tile_x_separator|>",
        "<|tile_y_separator|>",
    ]
    images = transformers.Llama4ImageProcessor(size=SQUARE, max_patches=4)
    processor = made("Llama4", images, words(*named), patch_size=14, pixel_shuffle_ratio=0.5)
    vision = {"projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32, **VISION}
    text = {"head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 48, **TEXT}
    return model("Llama4", processor, "<|patch|>", text_config=text, vision_config=vision)


def molmo2() -> Model:
    named = [
        "<|image|>",
        "<|video|>",
        "<im_patch>",
        "<im_col>",
        "<im_start>",
        "<low_res_im_start>",
        "<im_end>",
        "<im_low>",
    ]
    images = transformers.Molmo2ImageProcessor(size=SQUARE, max_crops=2, overlap_margins=[0, 0], patch_size=14)
    found = words(*named, "<frame_start>", "<frame_end>")
    processor = made("Molmo2", images, transformers.Molmo2VideoProcessor(size=SQUARE), found)
    return model("Molmo2", processor, "<im_patch>", text_config={"head_dim": 16, **TEXT})


def lfm2_vl() -> Model:
    named = ["<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *CELLS]
    tiles = {"tile_size": 56, "min_tiles": 2, "max_tiles": 4, "min_image_tokens": 4, "max_image_tokens": 16}
    images = transformers.Lfm2VlImageProcessor(
        **tiles, do_image_splitting=True, encoder_patch_size=14, downsample_factor=2
    )
    vision = {**SIGLIP, "model_type": "siglip2_vision_model", "num_patches": 64}
    processor = made("Lfm2Vl", images, words(*named, image_token="<image>"))
    text = {"model_type": "lfm2", "full_attn_idxs": [1], **TEXT}
    return model("Lfm2Vl", processor, "<image>", text_config=text, vision_config=vision)


PINPOINTS = [[56, 112], [112, 56], [112, 112]]


def llava_next() -> Model:
    tile = {"shortest_edge": 56}
    images = pil("LlavaNext", size=tile, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)
    options = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = made("LlavaNext", images, words(image_token="<image>"), **options)
    vision = {"model_type": "clip_vision_model", **VISION}
    text = {"model_type": "llama", **TEXT}
    config = {"text_config": text, "vision_config": vision, "image_grid_pinpoints": PINPOINTS}
    return model("LlavaNext", processor, "<image>", weights=True, vision_feature_layer=-1, **config)


def granite4_vision() -> Model:
    """As LLaVA-NeXT, with half as many tokens along each side of a tile."""
    images = pil("LlavaNext", size={"shortest_edge": 56}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)
    options = {"patch_size": 14, "vision_feature_select_strategy": "full", "downsample_rate": "1/2"}
    processor = made("Granite4Vision", images, words(image_token="<image>"), **options)
    former = {"num_hidden_layers": 1, "intermediate_size": 48, "cross_attention_frequency": 1, "vocab_size": 8}
    config = {
        "text_config": TEXT,
        "vision_config": {**SIGLIP, "hidden_size": 64, "num_hidden_layers": 2},
        "image_grid_pinpoints": PINPOINTS,
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[-1, 0]],
        "spatial_target_layers": [1, 1, 1, 1],
        "vision_feature_select_strategy": "full",
        "qformer_config": {**former, "max_position_embeddings": 64, "use_qformer_text_input": False},
    }
    return model("Granite4Vision", processor, "<image>", weights=True, **config)


def hunyuan_vl() -> Model:
    named = {"image_token": "<|img|>", "image_start_token": "<|start|>", "image_end_token": "<|end|>"}
    images = pil("HunYuanVL", size={"shortest_edge": 32 * 32, "longest_edge": 256 * 256})
    processor = made("HunYuanVL", images, words(**named))
    sections = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2, 2]}
    text = {**TEXT, "head_dim": 16, "rope_parameters": sections}
    vision = {**VISION, "patch_size": 16, "text_hidden_size": 32, "out_hidden_size": 32}
    return model("HunYuanVL", processor, "<|img|>", weights=True, text_config=text, vision_config=vision)


def deepseek_ocr2() -> Model:
    """144 queries of a picture of 768 x 768, which is what they are learned for, and a separator."""
    images = pil("DeepseekOcr2", size={"height": 768, "width": 768}, tile_size=768, crop_to_patches=False)
    processor = made("DeepseekOcr2", images, words(image_token="<image>"))
    processor.images_kwargs = {"crop_to_patches": False}
    tower = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "mlp_dim": 16, "image_size": 768}
    tower |= {"output_channels": 16, "downsample_channels": [16, 32], "global_attn_indexes": [], "window_size": 4}
    tower["initializer_range"] = 0.2
    vision = {"sam_config": tower, "encoder_config": {**TEXT, "vocab_size": 8}}
    text = {**TEXT, "n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    text |= {"mlp_layer_types": ["dense", "sparse"], "num_key_value_heads": 2}
    return model("DeepseekOcr2", processor, "<image>", weights=True, text_config=text, vision_config=vision)


def unlimited_ocr() -> Model:
    """One view: a picture of 256 x 256 is 4 x 4 tokens."""
    images = transformers.UnlimitedOcrImageProcessor(size={"height": 256, "width": 256}, tile_size=192, max_patches=2)
    processor = made("UnlimitedOcr", images, words(image_token="<image>"))
    tower = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "mlp_dim": 16, "image_size": 256}
    tower |= {"output_channels": 16, "downsample_channels": [16, 32], "global_attn_indexes": [], "window_size": 4}
    tower["initializer_range"] = 0.2
    vision = {"sam_config": tower, "encoder_config": {**VISION, "image_size": 256, "patch_size": 64}}
    text = {**TEXT, "n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    text |= {"mlp_layer_types": ["dense", "sparse"], "num_key_value_heads": 2}
    return model("UnlimitedOcr", processor, "<image>", weights=True, text_config=text, vision_config=vision)


def mllama() -> Model:
    images = pil("Mllama", size=SQUARE, max_image_tiles=4)
    processor = made("Mllama", images, words("<|image|>", "<|python_tag|>"))
    return model("Mllama", processor, "<|image|>", text_config={**TEXT, "cross_attention_layers": [1]})


def blip2() -> Model:
    queries = made("Blip2", pil("Blip", size=SQUARE), words(), num_query_tokens=8)
    text = {"model_type": "opt", "word_embed_proj_dim": 32, "ffn_dim": 48, **TEXT}
    former = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "encoder_hidden_size": 32}
    config = {"text_config": text, "qformer_config": former, "vision_config": VISION, "num_query_tokens": 8}
    return model("Blip2", queries, "<image>", **config)


KINDS: dict[str, Callable[[], Model]] = {
    "aria": aria,
    "aya_vision": aya_vision,
    "gemma3": gemma3,
    "granite_docling": granite_docling,
    "idefics2": idefics2,
    "idefics2_split": lambda: idefics2(do_image_splitting=True),
    "idefics3": lambda: idefics3(do_image_splitting=False),
    "idefics3_split": idefics3,
    "internvl": lambda: internvl(max_patches=1),
    "internvl_tiles": lambda: internvl(max_patches=2),
    "mistral3": mistral3,
    "ovis2": ovis2,
    "paligemma": paligemma,
    "qwen2_vl": qwen2_vl,
}
# Their image or video processors need torchvision.
TORCHVISION: dict[str, Callable[[], Model]] = {
    "lfm2_vl": lfm2_vl,
    "llama4": llama4,
    "minicpm": lambda: minicpm(slices=1),
    "minicpm_slices": lambda: minicpm(slices=4),
    "molmo2": molmo2,
}
