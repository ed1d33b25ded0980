"""Does a shipped folder name the digit? Measured as a user would run it: pictures, processor, from_pretrained."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForImageTextToText, AutoProcessor

from actstore_extract.demo.fusion import gate
from actstore_extract.samples.digits import Scans

__all__ = ["accuracy", "next_words"]

BATCH = 64


def accuracy(folder: Path, scans: Scans, rows: NDArray[np.int64], *, dtype: str = "float32") -> float:
    """Part of the scans in `rows` whose digit is the likeliest next token, of the whole vocabulary."""
    said = next_words(folder, scans, rows, dtype=dtype)
    return float(np.mean([word == scans.words[label] for word, label in zip(said, scans.labels[rows], strict=True)]))


@torch.no_grad()
def next_words(folder: Path, scans: Scans, rows: NDArray[np.int64], *, dtype: str = "float32") -> list[str]:
    """The likeliest next token after the card's prompt, for each scan in `rows`."""
    card = json.loads((folder / "card.json").read_text())
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    model = model.train(False)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)  # type: ignore[no-untyped-call]
    said: list[str] = []
    for first in range(0, len(rows), BATCH):
        images = [scans.image(int(i)) for i in rows[first : first + BATCH]]
        prompts = [card["prompt"]] * len(images)
        inputs = processor(text=prompts, images=images, return_tensors="pt", **card["processor_arguments"])
        inputs = inputs.to(model.dtype)
        if card["text_sees_image"] is False:
            inputs["attention_mask"] = blocked(inputs["input_ids"], processor.image_end_token_id, model.dtype)
        logits = model(**inputs).logits[:, -1]
        said += processor.tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())
    return said


def blocked(input_ids: torch.Tensor, end_of_image: int, dtype: torch.dtype) -> torch.Tensor:
    """The masks (n, 1, t, t) under which a gated model was trained, for prompts (n, t) that begin with an image."""
    text_from = (input_ids == end_of_image).int().argmax(1) + 1
    return gate(input_ids.shape[1], [int(start) for start in text_from], dtype)
