"""Descriptions of features from Neuronpedia's export files: local, no network.

Its exports are v1/MODEL/SOURCE/features/batch-N.jsonl.gz, a feature a line with its density, and beside it
explanations/batch-N.jsonl.gz, a description a line, sometimes several of a feature; explanations-JUDGE/ has those of
another model. Older ones are .json files of 128 features each, with their descriptions inside.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actstore.errors import ActstoreError
from actstore.storage.local import crc32c_of

__all__ = ["Description", "Descriptions", "load"]

_FOLDERS = re.compile(r"features|explanations(-.+)?")


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
    """Descriptions in a file or in the files of a folder and its subfolders, as exported.

    A feature without a description or a density is left out; of several descriptions the first counts, those in
    explanations/ before others. Raises ActstoreError for other files, and for a feature outside the layer's numbering.
    """
    texts: dict[int, str] = {}
    densities: dict[int, float] = {}
    files, sums = _files(path), []
    for file in files:
        records, checksum = _records(file)
        sums.append(checksum)
        for record in records:
            try:
                _keep(record, texts, densities)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ActstoreError(f"{file}: a feature is not as Neuronpedia exports it ({error!r})") from None
    found = {feature: Description(text, densities[feature]) for feature, text in texts.items() if feature in densities}
    if not found:
        missing = "features" if texts and not densities else "explanations" if densities and not texts else None
        remedy = f"; download its folder {missing} too" if missing else ""
        raise ActstoreError(f"{path}: no feature with a description and a density (frac_nonzero) in its files{remedy}")
    return Descriptions(found, crc32c_of("".join(sums).encode()))


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
        text = gzip.decompress(content) if file.suffix == ".gz" else content
        lines = ".jsonl" in file.suffixes
        read = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise ActstoreError(f"{file}: not a JSON file: {error}") from None
    features = read.get("features") if isinstance(read, dict) else read
    if not isinstance(features, list):
        raise ActstoreError(f"{file}: no list of features, as Neuronpedia exports them")
    return features, crc32c_of(content)


def _keep(record: Any, texts: dict[int, str], densities: dict[int, float]) -> None:
    """What a line or an item says of a feature: its density, descriptions of it, or both."""
    for text in _described(record):
        texts.setdefault(int(record["index"]), text)
    if record.get("frac_nonzero") is not None:
        densities[int(record["index"])] = float(record["frac_nonzero"])


def _described(record: Any) -> Iterator[str]:
    own = record.get("explanations") or ([record] if "description" in record else [])
    yield from (text for one in own[:1] if (text := (one.get("description") or "").strip()))
