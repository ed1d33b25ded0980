"""Descriptions of features from Neuronpedia's export files: local JSON, no network."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actstore.errors import ActstoreError
from actstore.storage.local import crc32c_of

__all__ = ["Description", "Descriptions", "load"]


@dataclass(frozen=True)
class Description:
    """What a feature is said to be about, and the share [0, 1] of language tokens on which it is active."""

    text: str
    density: float


@dataclass(frozen=True)
class Descriptions:
    """Descriptions by feature; fingerprint changes with the files."""

    of: dict[int, Description]
    fingerprint: str


def load(path: Path) -> Descriptions:
    """Descriptions in a file or in the .json files of a folder and its subfolders (128 features each, as exported).

    Each file is a list of features, or an object with one under `features`. A feature without a description or a
    density is left out. Raises ActstoreError for other files, and for a feature outside the layer's numbering.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ActstoreError(f"{path}: no .json file of Neuronpedia in it")
    found: dict[int, Description] = {}
    sums = []
    for file in files:
        features, checksum = _features(file)
        sums.append(checksum)
        for feature in features:
            found |= _described(file, feature)
    if not found:
        raise ActstoreError(f"{path}: no feature with a description and a density (frac_nonzero) in its files")
    return Descriptions(found, crc32c_of("".join(sums).encode()))


def _features(file: Path) -> tuple[list[Any], str]:
    try:
        content = file.read_bytes()
        read = json.loads(content)
    except (OSError, ValueError) as error:
        raise ActstoreError(f"{file}: not a JSON file: {error}") from None
    features = read.get("features") if isinstance(read, dict) else read
    if not isinstance(features, list):
        raise ActstoreError(f"{file}: no list of features, as Neuronpedia exports them")
    return features, crc32c_of(content)


def _described(file: Path, feature: Any) -> dict[int, Description]:
    """One feature, or nothing where it has no description or density."""
    try:
        explanations, density = feature.get("explanations") or [], feature.get("frac_nonzero")
        if not explanations or not (explanations[0].get("description") or "").strip() or density is None:
            return {}
        return {int(feature["index"]): Description(explanations[0]["description"].strip(), float(density))}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ActstoreError(f"{file}: a feature is not as Neuronpedia exports it ({error!r})") from None
