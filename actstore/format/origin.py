"""Where vectors come from that leave a store: said in whatever they leave it as."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["origin"]

OF_CARD = ("model", "revision", "weights_sha256", "recipe_name", "dtype")


def origin(path: Path, state: str, run: Mapping[str, Any], **asked: str | Sequence[int]) -> dict[str, Any]:
    """The store's name and state, its model and weights, and what was asked of it, and when."""
    card = {name: run[name] for name in OF_CARD if run.get(name) is not None}
    made = {"actstore": version("actstore"), "exported": datetime.now(UTC).isoformat(timespec="seconds")}
    return {"store": path.resolve().name, "state": state, **card, **asked, **made}
