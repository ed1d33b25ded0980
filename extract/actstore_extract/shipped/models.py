"""Models by name: each a folder that `load` takes."""

from pathlib import Path

from actstore_extract.shipped import gguf
from actstore_extract.shipped.weights import WEIGHTS

__all__ = ["MODELS", "located", "origin"]

MODELS: dict[str, Path] = {
    name: Path(__file__).parents[1] / "demo" / "models" / name
    for name in ("digits-fusion", "digits-mapped", "digits-gated")
}


def located(path: str) -> str:
    """The folder of a model that ships or was fetched, by its name, or of one in a GGUF file, dequantised once; any
    other path, or name on the hub, as it is.

    Raises WeightsError for weights that were not fetched, and for a GGUF file that cannot be read.
    """
    if path in MODELS:
        return str(MODELS[path])
    if path.endswith(gguf.SUFFIX):
        return str(gguf.converted(Path(path)))
    return str(WEIGHTS[path].there()) if path in WEIGHTS else path


def origin(path: str) -> dict[str, object]:
    """What a run card says of where a model comes from: the licence of weights that are fetched, and what a GGUF file
    says of itself; nothing of any other, whose own card says it."""
    if path.endswith(gguf.SUFFIX):
        return gguf.origin(path)
    return {"licence": WEIGHTS[path].licence} if path in WEIGHTS else {}
