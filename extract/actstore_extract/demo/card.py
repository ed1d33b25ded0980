"""The card of a shipped model: how it was made, what it scores, what it is and is not."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

from actstore_extract.demo.knockouts import knockouts, sentence
from actstore_extract.demo.naming import accuracy
from actstore_extract.samples.digits import Scans

__all__ = ["ABOUT", "Json", "write"]

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

DTYPES = ("float32", "bfloat16")
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn")

ABOUT: dict[str, dict[str, Json]] = {
    "digits-fusion": {
        "is": "A Chameleon of 6 layers trained from nothing on scanned digits: image tokens and words in one "
        "vocabulary, in both orders, with loss on both.",
        "is_not": "A model of anything but 8 x 8 digits; evidence about larger models; a generator of images through "
        "generate(), which the class does not allow.",
        "prompt": "<image>this digit is a",
        "processor_arguments": {"return_for_text_completion": True},
        "text_sees_image": True,
    },
    "digits-mapped": {
        "is": "A CLIP vision encoder, a linear adapter and a Gemma-2 of 8 layers, the latter trained on text only and "
        "frozen while the adapter was fitted; with one sparse autoencoder of its text activations per layer.",
        "is_not": "A model of anything but 8 x 8 digits; evidence about larger models. untrained_adapter.safetensors "
        "holds the adapter as it was drawn, for controls.",
        "prompt": "<image> : this digit is a",
        "processor_arguments": {},
        "text_sees_image": True,
    },
    "digits-gated": {
        "is": "An instrument check: a fusion model trained with the attention from text to the image before it always "
        "blocked, so that the end-of-image token is the only way, by construction. The scores hold under that block.",
        "is_not": "A finding: its gate was built in. Without the block it is outside of what it was trained for.",
        "prompt": "<image>this digit is a",
        "processor_arguments": {"return_for_text_completion": True},
        "text_sees_image": False,
    },
}


def write(folder: Path, card: dict[str, Json], scans: Scans) -> None:
    """Store `card` with the versions in use and how often the folder, loaded as users load it, names the digit."""
    versions: dict[str, Json] = {"python": platform.python_version()}
    versions |= {package: version(package) for package in PACKAGES}
    sizes: dict[str, Json] = {split: len(scans.indices(split)) for split in ("train", "validation", "test")}
    card = card | {"scans": sizes, "versions": versions}
    save(folder, card)  # the measurement reads the prompt from it
    measured: dict[str, Json] = {}
    for dtype in DTYPES:
        scores = {split: accuracy(folder, scans, scans.indices(split), dtype=dtype) for split in ("validation", "test")}
        measured[dtype] = {split: {"value": round(value, 4), "n": sizes[split]} for split, value in scores.items()}
    save(folder, card | {"accuracy": measured} | _gate(folder, card, scans))


def _gate(folder: Path, card: dict[str, Json], scans: Scans) -> dict[str, Json]:
    """What knockouts say of a gate, for models that have an end-of-image token."""
    if card["name"] == "digits-mapped":
        return {}
    held_out = scans.indices("test")
    measured = knockouts(folder, scans, held_out)
    rounded: dict[str, Json] = {name: round(value, 4) for name, value in measured.items()}
    said = sentence(measured, len(held_out), gated=card["text_sees_image"] is False)
    return {"accuracy_while_blocked": rounded, "gate": said}


def save(folder: Path, card: dict[str, Json]) -> None:
    """Write the card."""
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
