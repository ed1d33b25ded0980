"""SmolLM2 of a GGUF file as a plain Llama of Transformers."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

__all__ = ["PROMPTS", "convert", "seen"]

PROMPTS = (
    "The capital of France is the city of",
    "Two plus two is",
    "The opposite of hot is",
    "A banana is",
    "Water is made of hydrogen and",
)


def convert(file: Path, folder: Path) -> None:
    """Write the model, in float32, and its tokenizer into a folder."""
    where = {"gguf_file": file.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, **where, dtype=torch.float32)
    config = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        config.pop(name, None)
    plain = LlamaForCausalLM(LlamaConfig(**config))
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def seen(folder: Path) -> list[float]:
    """The largest next-token probability after each of some prompts."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # type: ignore[no-untyped-call]
    found = [model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].softmax(-1).max() for prompt in PROMPTS]
    return [float(one) for one in found]
