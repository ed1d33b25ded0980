"""The user's own cache folder: what is derived from a store, lies outside of it and may be removed at any time."""

import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from actstore.storage import local

STORES = "stores"  # the folder of what stores at URLs left
URL = "url"  # the file that says of which store a folder there is
GATHERED = "gathered"  # beside it: one that goes with what was fetched together
TAGS = "tags"  # beside it: those of the objects that its records were copied from
DRAFT = re.compile(r"\..+\.[0-9a-f]{8}(\.wal)?")
SECONDS = 24 * 3600.0  # since a draft was touched, after which its writer is taken for dead


def folder() -> Path:
    """Where it is; it may not exist. Raises OSError for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "actstore"
    except RuntimeError as error:  # no HOME, and no line in the table of users
        raise FileNotFoundError(f"{error}; set HOME or XDG_CACHE_HOME") from None


def clear(where: Path | None = None) -> None:
    """Remove what programs that were killed were preparing there, or in another folder."""
    for path in local.listed(where or folder()):
        if DRAFT.fullmatch(path.name):
            with suppress(OSError):  # it is gone since, or of another user
                if time.time() - path.lstat().st_mtime > SECONDS:
                    path.unlink()


def name_of(store: Path) -> str:
    """What the names of files about the store at this path begin with."""
    return hashlib.sha256(bytes(store.resolve())).hexdigest()[:16]
