"""The models that ship with the package, by name: each a folder that `load` takes."""

from pathlib import Path

__all__ = ["MODELS"]

MODELS: dict[str, Path] = {
    name: Path(__file__).parent / "demo" / "models" / name
    for name in ("digits-fusion", "digits-mapped", "digits-gated")
}
