"""SmolLM2 of a GGUF file as a plain Llama of Transformers."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from actstore_extract.shipped.gguf import convert

__all__ = ["PROMPTS", "convert", "seen"]

PROMPTS = (
    "The capital of France is the city of",
    "Two plus two is",
    "The opposite of hot is",
    "A banana is",
    "Water is made of hydrogen and",
)


@torch.no_grad()
def seen(folder: Path) -> list[float]:
    """The largest next-token probability after each of some prompts."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # type: ignore[no-untyped-call]
    found = [model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].softmax(-1).max() for prompt in PROMPTS]
    return [float(one) for one in found]
