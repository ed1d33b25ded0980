"""Small configurations of the real classes: every size that has a known name is made small, the rest is as it is."""

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

__all__ = ["N_WORDS", "small"]

Entries = dict[str, Any]  # of a configuration, as its to_dict gives them

N_WORDS = 600
_TEXT = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("attention_hidden_size", "conv_dim", "block_dim"), 64),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp", "d_ff", "ffn_dim", "n_inner", "block_ff_dim"), 96),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 96),
    **dict.fromkeys(("num_layers", "num_hidden_layers", "n_layer", "decoder_layers", "num_decoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "linear_num_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "v_head_dim", "qk_head_dim", "d_kv"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "hidden_size_per_layer_input", "index_head_dim"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k_experts", "index_n_heads", "index_topk_blocks"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "attention_chunk_size", "chunk_size"), 16),
    **dict.fromkeys(("mamba_num_heads", "mamba_n_heads"), 8),
    **dict.fromkeys(("mamba_head_dim", "mamba_d_head", "ssm_state_size", "mamba_d_state"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 512),
    **dict.fromkeys(("index_topk", "index_block_size"), 8),
    "encoder_layers": 4,
    "linear_conv_kernel_dim": 4,
    "n_groups": 2,
    "sliding_window": 12,
    "vocab_size_per_layer_input": N_WORDS,
}
_VISION = {
    **dict.fromkeys(("hidden_size", "d_model", "embed_dim", "width"), 32),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "mlp_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "depth", "encoder_layers", "cross_attention_frequency"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "attention_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads",), 2),
    "head_dim": 16,
    "image_size": 56,
    "num_global_layers": 1,
    "num_position_embeddings": 64,
    "patch_size": 14,
}
# Follow from sizes, so they are left to the class, as are names of labels and of versions.
_DERIVED = {
    *("layer_types", "no_rope_layers", "mlp_layer_types", "layers_block_type", "hybrid_override_pattern", "moe_layers"),
    *("rope_parameters", "rope_scaling", "per_layer_config", "attention_layers"),
    *("transformers_version", "architectures", "id2label", "label2id"),
}
_SEEING = ("vision", "visual", "vq", "qformer", "perceiver", "sam", "adapter", "high_res", "audio", "dit", "protein")
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def small(model_type: str, entries: Mapping[str, Any], unset: tuple[str, ...] = ()) -> PretrainedConfig:
    """The configuration of a class, small, with `entries` merged in and the dotted names of `unset` None.

    An entry that is a table with a `model_type` takes the place of the configuration there and begins with the small
    one of that type; any other table is merged into the configuration that is there, or replaces what is none.
    """
    config = _shrunk(_defaults(model_type), seeing=False)
    _merge(config, entries)
    for dotted in unset:
        *path, last = dotted.split(".")
        inner = config
        for name in path:
            inner = inner[name]
        inner[last] = None
    for each in (config, *(config[name] for name in ("text_config",) if isinstance(config.get(name), dict))):
        if "vocab_size" in each:
            each["vocab_size"] = N_WORDS
        each.update({name: token for name, token in _SPECIAL.items() if name in each})
    return CONFIG_MAPPING[model_type].from_dict(config)


def _defaults(model_type: str) -> Entries:
    return dict(CONFIG_MAPPING[model_type]().to_dict())


def _shrunk(config: Entries, *, seeing: bool) -> Entries:
    rules = _VISION if seeing else _TEXT
    found: Entries = {}
    for name, value in config.items():
        if name in _DERIVED:
            continue
        if isinstance(value, dict) and "model_type" in value:
            value = _shrunk(value, seeing=seeing or _sees(name))
        elif name == "vocab_size" and not seeing:
            value = N_WORDS
        elif name in rules and value is not None and not isinstance(value, list | dict):
            value = rules[name]
        found[name] = value
    if "kv_lora_rank" in found:  # latent attention: every head has its own keys, and rotates a part of them
        heads = {"num_key_value_heads": found.get("num_attention_heads"), "head_dim": found.get("qk_rope_head_dim")}
        found.update({name: value for name, value in heads.items() if name in found})
    return found


def _sees(name: str) -> bool:
    return any(part in name for part in _SEEING)


def _merge(config: Entries, entries: Mapping[str, Any]) -> None:
    for name, value in entries.items():
        inner = config.get(name)
        if isinstance(value, dict) and "model_type" in value:
            config[name] = inner = _shrunk(_defaults(value["model_type"]), seeing=_sees(name))
            _merge(inner, value)
        elif isinstance(value, dict) and isinstance(inner, dict) and "model_type" in inner:
            _merge(inner, value)
        else:
            config[name] = value
