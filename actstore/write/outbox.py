"""Outbox: parts of a store at a URL, written in its mirror and sent; a record, created last, makes each exist."""

import shutil
import time
from pathlib import Path

from actstore.errors import ActstoreError, AlreadyCommittedError
from actstore.format import records
from actstore.format.commits import TABLES, Commit
from actstore.format.names import COMMITS, PARTS
from actstore.read.mirror import Mirror
from actstore.storage import objects
from actstore.storage.at_once import each

__all__ = ["Outbox"]

AT_ONCE = 8  # files on their way
GIVEN_UP = 12 * 3600.0  # seconds since a part was begun: after twice that, gc takes it for one that nobody finishes
_tried: set[str] = set()  # URLs at which conditions hold, by this process


class Outbox:
    """What sends the parts of one store; `began` when the part was begun (time.monotonic)."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror, self.url, self.folder = mirror, mirror.url, mirror.folder
        self._began = time.monotonic()
        check(mirror.storage)

    def publish(self, commit: Commit) -> None:
        """Send a part and create its record; it is acknowledged when this returns.

        Raises AlreadyCommittedError if another writer was first, and removes what was sent; ActstoreError where the
        storage fails: then the batch may be committed or not, which the next who opens the store sees.
        """
        storage, part = self._mirror.storage, f"{PARTS}/{commit.part}"
        each(lambda name: storage.write(f"{part}/{name}", self.folder / part / name), [*commit.files], AT_ONCE)
        there = storage.listed(part)
        wanted = {f"{part}/{name}": file.size for name, file in commit.files.items()}
        if there != wanted:
            raise ActstoreError(f"{self.url}/{part}: not all of it arrived; nothing of it is committed: run it again")
        if time.monotonic() - self._began > GIVEN_UP:
            raise ActstoreError(f"{self.url}/{part}: begun more than 12 hours ago, so gc may remove it: run it again")
        name, content = f"{COMMITS}/{commit.name}", records.dump(commit.record())
        try:
            storage.create(name, content)
        except objects.PresentError:
            storage.remove(there)
            raise AlreadyCommittedError(
                f"{self.url}/{name}: another writer was first; this copy is discarded"
            ) from None
        self._mirror.copies.keep(name, content)

    def keep_tables(self, folder: Path) -> None:
        """Of a part that was sent leave the tables, which SQL needs; vectors are read where they lie."""
        for path in folder.iterdir():
            if path.name not in TABLES:
                shutil.rmtree(path, ignore_errors=True)


def check(storage: objects.Storage) -> None:
    """Raise ActstoreError for a place that takes no files, and for one where two writers would overwrite each other."""
    if storage.web:
        raise ActstoreError(
            f"{storage.url}: nothing is written there; write into a folder, and to the Hub: actstore push FOLDER URL"
        )
    if storage.url not in _tried:
        objects.check_conditions(storage)
        _tried.add(storage.url)
