"""Cached: what reading stores at URLs left in the user's cache folder."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from actstore.format.names import HEADER, RESULTS
from actstore.storage import cache, local

__all__ = ["Kept", "find"]


@dataclass(frozen=True)
class Kept:
    """The folder of a store in the cache.

    bytes: of what is fetched again when it is wanted. results: saved ones, of which some may be nowhere else.
    hours: since the store was opened.
    """

    url: str
    folder: Path
    bytes: int
    results: int
    hours: float

    def clear(self, *, results: bool) -> None:
        """Remove it; without `results`, the saved ones stay."""
        for path in local.files(self.folder):
            of_results = path.parent.name == RESULTS or path == self.folder / cache.URL
            if results or not (self.results and of_results):
                path.unlink(missing_ok=True)
        for where, _, _ in os.walk(self.folder, topdown=False):
            with suppress(OSError):  # what is kept lies there, or what somebody fetches now
                Path(where).rmdir()


def find() -> list[Kept]:
    """What is there, by URL; of one URL there are several where another store, or another commit, took its place."""
    found = [_measured(folder) for folder in local.listed(cache.folder() / cache.STORES) if folder.is_dir()]
    return sorted(found, key=lambda one: (one.url, one.hours))


def _measured(folder: Path) -> Kept:
    n_bytes, results, newest = 0, 0, folder.stat().st_mtime
    for path in local.files(folder):
        with suppress(FileNotFoundError):
            stat = path.lstat()
            results += path.parent.name == RESULTS
            n_bytes += 0 if path.parent.name == RESULTS else stat.st_size
            newest = stat.st_mtime if path.name == HEADER else newest
    try:
        url = (folder / cache.URL).read_text(encoding="utf-8")
    except (OSError, ValueError):
        url = folder.name
    return Kept(url, folder, n_bytes, results, (time.time() - newest) / 3600)
