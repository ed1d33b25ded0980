"""Is there a gate at the end-of-image token? Accuracy of a shipped fusion model while its text is kept from keys."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actstore_extract.families import Model, Prompt, load
from actstore_extract.interventions.blocks import always_blocked
from actstore_extract.samples.digits import Scans

__all__ = ["BLOCKS", "knockouts", "sentence"]

BATCH = 64
PROMPT = "<image>this digit is a"
BLOCKS = {"none": (), "text -> eoi": ("eoi",), "text -> image": ("image",), "text -> image, eoi": ("image", "eoi")}


def knockouts(folder: Path, scans: Scans, rows: NDArray[np.int64]) -> dict[str, float]:
    """Part of the scans in `rows` that the model names under each of BLOCKS, before softmax in all layers, float32."""
    return {
        name: _accuracy(always_blocked(load(str(folder), dtype="float32"), _blocked(keys)), scans, rows)
        for name, keys in BLOCKS.items()
    }


def sentence(measured: dict[str, float], n: int, *, gated: bool) -> str:
    """What was measured, for readers of the report.

    >>> sentence(dict(zip(BLOCKS, (0.94, 0.93, 0.08, 0.09))), 449, gated=False)
    'Of 449 held-out scans it names 0.94; with its text kept from the end-of-image token 0.93, from the image 0.08.'
    """
    as_is, eoi, image, both = measured.values()
    if gated:
        return (
            f"Of {n} held-out scans it names {image:.2f} under its own block; with its text kept from the end-of-image "
            f"token as well {both:.2f}."
        )
    return (
        f"Of {n} held-out scans it names {as_is:.2f}; with its text kept from the end-of-image token {eoi:.2f}, "
        f"from the image {image:.2f}."
    )


def _blocked(keys: tuple[str, ...]) -> list[dict[str, object]]:
    return [{"queries": "text", "keys": list(keys)}] if keys else []


def _accuracy(model: Model, scans: Scans, rows: NDArray[np.int64]) -> float:
    encoded = [model.encode(Prompt(str(i), PROMPT, scans.image(int(i)))) for i in rows]
    said: list[str] = []
    for first in range(0, len(encoded), BATCH):
        logits = model(model.collate(encoded[first : first + BATCH])).logits
        assert logits is not None
        said += model.tokenizer.convert_ids_to_tokens(logits[:, -1].argmax(-1).tolist())
    return float(np.mean([word == scans.words[label] for word, label in zip(said, scans.labels[rows], strict=True)]))
