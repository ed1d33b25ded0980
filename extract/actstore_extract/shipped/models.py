"""Models by name: each a folder that `load` takes."""

from pathlib import Path

from actstore_extract.shipped.weights import WEIGHTS

__all__ = ["MODELS", "licence", "located"]

MODELS: dict[str, Path] = {
    name: Path(__file__).parents[1] / "demo" / "models" / name
    for name in ("digits-fusion", "digits-mapped", "digits-gated")
}


def located(path: str) -> str:
    """The folder of a model that ships or was fetched, by its name; any other path, or name on the hub, as it is.

    Raises WeightsError for weights that were not fetched.
    """
    if path in MODELS:
        return str(MODELS[path])
    return str(WEIGHTS[path].there()) if path in WEIGHTS else path


def licence(path: str) -> str | None:
    """The licence of weights that are fetched by this name; None for any other model, whose own card says it."""
    return WEIGHTS[path].licence if path in WEIGHTS else None
