"""The user's own cache folder: what is derived from a store, lies outside of it and may be removed at any time."""

import hashlib
import os
from pathlib import Path


def folder() -> Path:
    """Where it is; it may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actstore"


def name_of(store: Path) -> str:
    """What the names of files about the store at this path begin with."""
    return hashlib.sha256(bytes(store.resolve())).hexdigest()[:16]
