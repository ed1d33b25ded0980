"""Tiny language models with tokenizers of the kinds that published ones have."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "</s>", "<unk>", "[/INST]"]
TEXTS = ["this animal is a dog", "this animal is a cat", "dogs and cats", "dog", "cat", "a ( dog"] * 20


def tokenizer(kind):
    """`bytes` writes a space before a word as its own character (GPT-2, Qwen, Chameleon), `pieces` as ▁ (Llama)."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "bytes":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = [*"abcdefghijklmnopqrstuvwxyz:(\n▁"]
    made.train_from_iterator(
        TEXTS + ["dog\n\n"] * 20 * (kind == "bytes"),
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["[/INST]"],
    )


def save(folder, kind="bytes", width=16):
    """A random model of one of the kinds, in a folder."""
    words = tokenizer(kind)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
