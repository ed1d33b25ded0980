"""Models by name: each a folder that `load` takes."""

from collections.abc import Callable
from pathlib import Path

from actstore_extract.shipped import gguf
from actstore_extract.shipped.weights import WEIGHTS

__all__ = ["MAPS", "MODELS", "located", "origin"]

_FOLDER = Path(__file__).parents[1] / "demo" / "models"
MODELS = {name: _FOLDER / name for name in ("digits-fusion", "digits-mapped", "digits-gated")}
# Linear maps that ship, between models that are fetched, and what each was made of.
MAPS = {"openmoji-mapped": ("dinov2-small", "smollm2-135m", "openmoji")}


def located(path: str, say: Callable[[str], None] = lambda _: None) -> str:
    """The folder of a model that ships or was fetched, by its name, or of one in a GGUF file, dequantised once, which
    `say` is told of; any other path, or name on the hub, as it is.

    Raises WeightsError for weights that were not fetched, and for a GGUF file that cannot be read.
    """
    if path in MODELS:
        return str(MODELS[path])
    if path in MAPS:
        return str(_FOLDER / path)
    if path.endswith(gguf.SUFFIX):
        return str(gguf.converted(Path(path), say))
    return str(WEIGHTS[path].there()) if path in WEIGHTS else path


def origin(path: str) -> dict[str, object]:
    """What a run card says of where a model comes from: the licence of weights that are fetched, of each that a map has
    to do with, and what a GGUF file says of itself; nothing of any other, whose own card says it."""
    if path in MAPS:
        return {"licence": "; ".join(f"{name}: {WEIGHTS[name].licence}" for name in MAPS[path])}
    if path.endswith(gguf.SUFFIX):
        return gguf.origin(path)
    return {"licence": WEIGHTS[path].licence} if path in WEIGHTS else {}
