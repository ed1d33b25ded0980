"""What every model is shown: pictures of three shapes and words of two lengths, so that batches are padded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from actstore_extract.models.kind import Kind

__all__ = ["Sample", "others", "recipe", "samples"]

_SIZES = [(112, 112), (112, 112), (168, 112), (112, 168)]  # width, height
_OTHERS = (100, 101)  # seeds of pictures that no sample has
_SHORT = "this digit is a"
_LONG = "one , two , three : this animal is a four ; this digit is a"
_BESIDE = [_SHORT, _LONG, _LONG, _SHORT]
_ALONE = [
    "one two three",
    "this digit is a one , two three four : five six seven ; this animal is",
    "a",
    "four five six seven eight nine zero one two three four five",
]


class Sample:
    """A prompt with <image> in it and a picture, or words alone."""

    def __init__(self, sample_id: str, prompt: str, picture: Image.Image | None) -> None:
        self.sample_id, self.prompt, self.picture = sample_id, prompt, picture


def samples(kind: Kind) -> list[Sample]:
    """The samples of a kind."""
    if not kind.sees:
        return [Sample(f"s{i}", words, None) for i, words in enumerate(_ALONE)]
    return [
        Sample(f"s{i}", kind.prompt.replace("{}", words), _picture(i, size))
        for i, (words, size) in enumerate(zip(_BESIDE, _SIZES, strict=True))
    ]


def others(sample: Sample) -> list[Sample]:
    """The same with other pictures of the same size."""
    assert sample.picture is not None
    pictures = [_picture(seed, sample.picture.size) for seed in _OTHERS]
    return [Sample(sample.sample_id, sample.prompt, picture) for picture in pictures]


def recipe(kind: Kind, folder: Path, asked: Mapping[str, Any], name: str) -> Path:
    """A recipe for the command line that runs the kind's checkpoint in `folder` over its samples."""
    table = folder / "samples.jsonl"
    if not table.exists():
        _write(samples(kind), folder, table)
    values = "\n".join(f"{key} = {json.dumps(value)}" for key, value in asked.items())
    images = "" if not kind.sees else f"images = {json.dumps(str(folder))}\n"
    path = folder / f"{name}.toml"
    path.write_text(
        f'[model]\npath = {json.dumps(str(folder / "model"))}\ndtype = "float32"\n'
        f'[samples]\nsource = "table"\npath = {json.dumps(str(table))}\n{images}[capture]\n{values}\n',
        encoding="utf-8",
    )
    return path


def _write(given: list[Sample], folder: Path, table: Path) -> None:
    lines = []
    for sample in given:
        line = {"sample_id": sample.sample_id, "prompt": sample.prompt}
        if sample.picture is not None:
            line["image"] = f"{sample.sample_id}.png"
            sample.picture.save(folder / line["image"])
        lines.append(json.dumps(line))
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _picture(seed: int, size: tuple[int, int]) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
