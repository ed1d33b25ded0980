"""Tiny models of the real classes with random weights, and prompts to feed them."""

import string

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.processing_utils import ProcessorMixin

from actstore_extract.families import Model, Prompt

torch.set_num_threads(1)  # threads that wait for each other on a busy machine make these models 100 times slower

WORDS = [
    "this",
    "digit",
    "is",
    "a",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "zero",
    ":",
    ",",
    ".",
    "animal",
]
D_MODEL, N_LAYERS, N_HEADS = 64, 4, 4


def tokenizer(specials: list[str], *, bos: str | None = "<s>", **named: str) -> PreTrainedTokenizerFast:
    """A word tokenizer: `specials` first, then WORDS; `named` become attributes such as `image_token`."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *specials, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        words.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=named,
        padding_side="right",
    )


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
    "llava_gemma": llava_gemma,
}


def model(name: str, **options: object) -> Model:
    """The tiny system of that name, wrapped."""
    module, processor = {**SYSTEMS, "llama": llama}[name]()
    return Model(module, processor, **options)


def image(seed: int = 0, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """A random picture, (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prompts(texts: list[str] | None = None) -> list[Prompt]:
    """One prompt per text, with a picture where the text asks for one."""
    texts = texts or ["<image> this digit is a", "<image> this is a one , this is a two , this digit is a"]
    return [
        Prompt(sample_id=f"s{i}", text=text, image=image(i) if "<image>" in text else None)
        for i, text in enumerate(texts)
    ]
