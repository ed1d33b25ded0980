"""Texts, pictures, prompts and batches to feed tiny models."""

from dataclasses import replace

import numpy as np
from PIL import Image
from torch.nn import functional

from actstore_extract.families import Batch, Model, Prompt
from actstore_extract.families.family import _SEQUENCES

SAME = ["<image> this digit is a", "<image> one , two , three"]
MIXED = ["<image> this digit is a", "<image> this is a one , this is a two , this digit is a", "one two <image>"]
BATCHES = {  # texts, whether they are padded left, and how many slots more than needed
    "one": (SAME[:1], False, 0),
    "one, right padded": (SAME[:1], False, 3),
    "one, left padded": (SAME[:1], True, 3),
    "same length": (SAME, False, 0),
    "right padded": (MIXED, False, 0),
    "left padded": (MIXED, True, 0),
}


def image(seed: int = 0, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """A random picture, (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prompts(texts: list[str] | None = None, sizes: list[tuple[int, int]] | None = None) -> list[Prompt]:
    """One prompt per text, with a picture where the text asks for one, of 8 x 8 pixels or the size given."""
    texts = texts or ["<image> this digit is a", "<image> this is a one , this is a two , this digit is a"]
    pictures = [image(i, size) for i, size in enumerate(sizes or [(8, 8)] * len(texts))]
    return [
        Prompt(sample_id=f"s{i}", text=text, image=picture if "<image>" in text else None)
        for i, (text, picture) in enumerate(zip(texts, pictures, strict=True))
    ]


def filled(model: Model, batch: Batch, n: int, *, left: bool) -> Batch:
    """The batch with n more slots of padding on one side: what one sample alone never has."""
    sides, inputs = (n, 0) if left else (0, n), dict(batch.inputs)
    for name in _SEQUENCES & inputs.keys():
        inputs[name] = functional.pad(inputs[name], sides, value=model.pad_token_id if name == "input_ids" else 0)
    if "position_ids" in inputs:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return replace(batch, inputs=inputs, offset=batch.offset + n * left)
