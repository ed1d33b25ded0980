"""Tiny models of text alone whose blocks call their cache layer_past; most run an attention of their own."""

from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

import tiny
from actstore_extract.families import Model

INTERFACE = ["gpt_bigcode", "gpt_neox"]  # those whose attention can be read
OLDER = {
    "bloom": {},
    "codegen": {"rotary_dim": 8},
    "falcon": {"alibi": False},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 6},
    "gpt_neox": {"intermediate_size": 96},
    "gptj": {"rotary_dim": 8},
}


def older(name: str, **others: object) -> Model:
    """The tiny model of that type, four blocks of four heads."""
    words = tiny.tokenizer([])
    named = {"pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 256}
    names = CONFIG_MAPPING[name].attribute_map
    sizes = {names.get(size, size): value for size, value in sizes.items()}
    config = AutoConfig.for_model(name, vocab_size=len(words), **{**sizes, **named, **OLDER[name], **others})
    return Model(tiny.spread(AutoModelForCausalLM.from_config(config)), words)
