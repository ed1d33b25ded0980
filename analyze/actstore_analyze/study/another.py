"""Another store that a call compares with: the one that it was asked about, or none."""

import threading
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore.store import open as open_store

__all__ = ["another", "opened"]

_own = threading.local()  # a thread's store: those of one store share a connection


def another(path: Path | str, state: str | None) -> Store:
    """The store, in the state that the call has of it and its result is kept with.

    Raises ActstoreError for a store that changed since: units would be compared with different contents.
    """
    found = open_store(path)
    if found.state != state:
        raise ActstoreError(f"{path} has changed since it was looked at (something writes to it?); ask again")
    return found


def opened(path: Path | str, state: str | None) -> Store:
    """The same for many pieces of a thread: once open it stays in that state, whatever is written meanwhile."""
    if getattr(_own, "asked", None) != (path, state):
        _own.store, _own.asked = another(path, state), (path, state)
    store: Store = _own.store
    return store
