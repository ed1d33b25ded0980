"""Fingerprints: which weights and which processor a store was made with."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from transformers.utils.hub import cached_file

from actstore_extract.families import sources
from actstore_extract.families.parts import read_parts
from actstore_extract.families.pretrained import explained

__all__ = ["LANGUAGE", "WEIGHTS", "decoder_weights", "fingerprint", "folder_of", "hashed", "matching"]

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
LANGUAGE = "language"  # entry of a parts file
PROCESSOR = ("tokenizer*", "*preprocessor_config.json", "processor_config.json", "special_tokens_map.json", "vocab*")


def fingerprint(path: str, revision: str | None = None) -> dict[str, str]:
    """sha256 of a model's weights and of its processor's files, in its folders or in the hub's cache."""
    folders = [folder_of(*source) for source in sources(path, revision).values()]
    return {
        "weights_sha256": hashed(matching(folders, WEIGHTS)),
        "processor_sha256": hashed(matching(folders, PROCESSOR)),
    }


def decoder_weights(path: str) -> str | None:
    """sha256 of the language model that a parts.toml names, which is all that replays read; None without one."""
    parts = read_parts(path)
    if parts is None or LANGUAGE not in parts.entries:
        return None
    return fingerprint(*parts.model(LANGUAGE))["weights_sha256"]


def folder_of(path: str, revision: str | None) -> Path:
    """The folder of a checkpoint, or where the hub's cache has it."""
    if Path(path).is_dir():
        return Path(path)
    with explained(path):
        found = cached_file(path, "config.json", revision=revision)
    assert found is not None
    return Path(found).parent


def matching(folders: Sequence[Path], patterns: Sequence[str]) -> list[Path]:
    """The files of any of these patterns, in the order of the folders and of their names."""
    found = ({path for pattern in patterns for path in folder.glob(pattern)} for folder in folders)
    return [path for one in found for path in sorted(one) if path.is_file()]


def hashed(paths: Iterable[Path]) -> str:
    """One sha256 of the names of files and what is in them."""
    total = sha256()
    for path in paths:
        total.update(f"{path.name}\n".encode())
        with path.open("rb") as file:
            while block := file.read(2**24):
                total.update(block)
    return total.hexdigest()
