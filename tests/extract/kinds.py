"""Tiny models of kinds that differ in what a forward computes: sparse attention, hybrids, sinks, several streams."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, MistralLarge4Config, MistralLarge4ForConditionalGeneration

import tiny
from actstore_extract.families import Model

LONG = "this is a one , this is a two , this is a three , this digit is a"  # 18 tokens
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1}
INDEXED = {"index_topk": 6, "index_n_heads": 2, "index_head_dim": 8}
HALF_SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
TEXTS: dict[str, dict[str, object]] = {
    "bert": {},
    "deepseek_v3": {**LATENT, **EXPERTS, "first_k_dense_replace": 1},
    "deepseek_v32": {**LATENT, **EXPERTS, **INDEXED, "first_k_dense_replace": 1},
    "deepseek_v4": {**EXPERTS, **INDEXED, "head_dim": 16, "q_lora_rank": 16, "o_lora_rank": 16, "o_groups": 2},
    "gemma3n_text": {
        "intermediate_size": [96] * 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 8,
        "vocab_size_per_layer_input": 22,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 1,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4,
        "head_dim": 16,
    },
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "sliding_window": 8, **HALF_SLIDING},
    "inkling2_text": {
        **EXPERTS,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
        "head_dim": 16,
        "sliding_window_size": 8,
        "rel_extent": 16,
        "d_rel": 8,
        "n_layers_per_attn_res_block": 2,
        "unpadded_vocab_size": 22,
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "longcat_flash": {
        **LATENT,
        "num_layers": 2,
        "head_dim": 8,
        "expert_ffn_hidden_size": 32,
        "ffn_hidden_size": 96,
        "n_routed_experts": 4,
        "zero_expert_num": 2,
        "moe_topk": 2,
    },
    "minimax": {"layer_types": ["full_attention", "linear_attention"] * 2, "num_local_experts": 2, "block_size": 8},
    "nanochat": {},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
}


def text(name: str, **others: object) -> Model:
    """The tiny model of text alone of that type, four blocks of four heads unless it says otherwise."""
    words = tiny.tokenizer([])
    config = AutoConfig.for_model(name, **{**tiny.text_config(words), **TEXTS.get(name, {}), **others})
    torch.manual_seed(0)
    return Model(tiny.spread(AutoModelForCausalLM.from_config(config)), words)


def mistral_large4() -> Model:
    """Sparse attention over six keys, and pictures as Pixtral has them."""
    _, processor = tiny.pixtral()
    words = processor.tokenizer
    latent = {**LATENT, **EXPERTS, **INDEXED, "layer_types": ["indexed_attention"] * 4}
    config = MistralLarge4Config(
        text_config={"model_type": "mistral_large4_text", **tiny.text_config(words), **latent},
        vision_config={"model_type": "pixtral", "image_size": 16, "patch_size": 2, **tiny.SMALL_VISION},
        image_token_id=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=1,
    )
    torch.manual_seed(0)
    return Model(tiny.spread(MistralLarge4ForConditionalGeneration(config)), processor)
