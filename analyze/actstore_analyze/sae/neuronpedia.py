"""Descriptions of features from Neuronpedia's export files: local, no network.

Its exports are v1/MODEL/SOURCE/features/batch-N.jsonl.gz, a feature a line with its density, and beside it
explanations/batch-N.jsonl.gz, a description a line, sometimes several of a feature; explanations-JUDGE/ has those of
another model. Older ones are .json files of 128 features each, with their descriptions inside.
"""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actstore.errors import ActstoreError
from actstore.format.given import suffix_of
from actstore.storage.local import crc32c_of

__all__ = ["Description", "Descriptions", "described_by", "load"]

_FOLDERS = re.compile(r"features|explanations(-.+)?")


@dataclass(frozen=True)
class Description:
    """What a feature is said to be about, and the share [0, 1] of language tokens on which it is active."""

    text: str
    density: float


@dataclass(frozen=True)
class Descriptions:
    """Descriptions by feature; fingerprint changes with the files; folders are those that they come from, and how many
    from each."""

    of: dict[int, Description]
    fingerprint: str
    folders: dict[str, int]


def load(path: Path) -> Descriptions:
    """Descriptions in a file or in the files of a folder and its subfolders, as exported.

    A feature without a description or a density is left out; of several descriptions the first counts, those in
    explanations/ before others. Raises ActstoreError for other files, and for a feature outside the layer's numbering.
    """
    texts: dict[int, tuple[str, str]] = {}  # and the folder they are from
    densities: dict[int, float] = {}
    files, sums = _files(path), []
    for file in files:
        records, checksum = _records(file)
        sums.append(checksum)
        for record in records:
            try:
                _keep(record, file.parent.name, texts, densities)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ActstoreError(f"{file}: a feature is not as Neuronpedia exports it ({error!r})") from None
    known = {feature: text for feature, text in texts.items() if feature in densities}
    found = {feature: Description(text, densities[feature]) for feature, (text, _) in known.items()}
    if not found:
        missing = "features" if texts and not densities else "explanations" if densities and not texts else None
        remedy = f"; download its folder {missing} too" if missing else ""
        raise ActstoreError(f"{path}: no feature with a description and a density (frac_nonzero) in its files{remedy}")
    return Descriptions(found, crc32c_of("".join(sums).encode()), dict(Counter(folder for _, folder in known.values())))


def described_by(path: Path) -> list[str]:
    """The folders of descriptions that an export has, by name: explanations, and explanations-JUDGE of other models."""
    return sorted({file.parent.name for file in _files(path) if _FOLDERS.fullmatch(file.parent.name)} - {"features"})


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    lines = [file for file in path.rglob("*.jsonl*") if _FOLDERS.fullmatch(file.parent.name)]
    files = [*sorted(path.rglob("*.json")), *sorted(lines, key=lambda file: (str(file.parent), _number(file)))]
    if not files:
        raise ActstoreError(f"{path}: no .json file of Neuronpedia in it, nor features/ and explanations/")
    return files


def _number(file: Path) -> int:
    """The batch that a file is of."""
    found = re.search(r"\d+", file.name)
    return int(found[0]) if found else 0


def _records(file: Path) -> tuple[list[Any], str]:
    """Features, or descriptions of them, and the checksum of the file."""
    try:
        content = file.read_bytes()
        text = gzip.decompress(content) if suffix_of(file) == ".gz" else content
        lines = ".jsonl" in file.name.lower()
        read = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise ActstoreError(f"{file}: not a JSON file: {error}") from None
    features = read.get("features") if isinstance(read, dict) else read
    if not isinstance(features, list):
        raise ActstoreError(f"{file}: no list of features, as Neuronpedia exports them")
    return features, crc32c_of(content)


def _keep(record: Any, folder: str, texts: dict[int, tuple[str, str]], densities: dict[int, float]) -> None:
    """What a line or an item says of a feature: its density, descriptions of it, or both."""
    for text in _described(record):
        texts.setdefault(int(record["index"]), (text, folder))
    if record.get("frac_nonzero") is not None:
        densities[int(record["index"])] = float(record["frac_nonzero"])


def _described(record: Any) -> Iterator[str]:
    own = record.get("explanations") or ([record] if "description" in record else [])
    yield from (text for one in own[:1] if (text := (one.get("description") or "").strip()))
