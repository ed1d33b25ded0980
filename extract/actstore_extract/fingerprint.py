"""Fingerprints: which weights and which processor a store was made with."""

from hashlib import sha256
from pathlib import Path

from transformers.utils.hub import cached_file

__all__ = ["fingerprint"]

WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
PROCESSOR = ("tokenizer*", "*preprocessor_config.json", "processor_config.json", "special_tokens_map.json", "vocab*")


def fingerprint(path: str, revision: str | None = None) -> dict[str, str]:
    """sha256 of the weights and of the processor's files of a model folder, or of its copy in the hub's cache."""
    folder = Path(path)
    if not folder.is_dir():
        found = cached_file(path, "config.json", revision=revision)
        assert found is not None
        folder = Path(found).parent
    return {"weights_sha256": _hash(folder, WEIGHTS), "processor_sha256": _hash(folder, PROCESSOR)}


def _hash(folder: Path, patterns: tuple[str, ...]) -> str:
    """One hash over names and contents, in the order of the names."""
    total = sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        total.update(f"{path.name}\n".encode())
        with path.open("rb") as file:
            while block := file.read(2**24):
                total.update(block)
    return total.hexdigest()
