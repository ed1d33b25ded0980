"""Orphans: what writers that died left behind, and its removal."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from actstore import commits
from actstore.commits import Commit
from actstore.drafts import claimed, is_live, is_published
from actstore.format import COMMITS, PART_NAME, PARTS, RESULTS
from actstore.header import Header

DRAFT_NAME = re.compile(r"\..+\.(json|parquet|duckdb)\.[0-9a-f]{8}(\.wal)?")  # as durable.draft_of makes them


@dataclass(frozen=True)
class Orphan:
    """A folder or file that no commit names, no writer holds, and nobody touched for some hours."""

    path: Path
    bytes: int
    hours: float


def find(store: Path, *, older_than: float = 24.0) -> list[Orphan]:
    """Orphans of a store that are at least `older_than` hours old.

    The age guards writers on other machines, whose locks cannot be seen here. Raises CorruptError if a commit record
    cannot be read: what it names must not be taken for an orphan.
    """
    Header.load(store)
    parts = [path for path in (store / PARTS).iterdir() if PART_NAME.fullmatch(path.name) and not is_live(path)]
    hidden = [path for folder in (COMMITS, RESULTS, ".") for path in (store / folder).glob(".*")]
    drafts = [path for path in hidden if DRAFT_NAME.fullmatch(path.name) and path.is_file()]
    kept = _committed(store)  # read after the locks were seen free: whoever held one has published by now
    found = [_measure(path) for path in [*parts, *drafts] if path.name not in kept]
    return sorted((one for one in found if one.hours >= older_than), key=lambda one: one.path)


def remove(orphan: Orphan) -> bool:
    """Remove an orphan; False if it is one no longer, because a writer took it or committed it since it was found."""
    if not orphan.path.is_dir():
        orphan.path.unlink(missing_ok=True)
        return True
    with claimed(orphan.path) as free:  # whoever writes it holds the lock until it is committed
        if not free or is_published(orphan.path.parents[1], orphan.path.name):
            return False
        shutil.rmtree(orphan.path)
    return True


def _committed(store: Path) -> set[str]:
    return {Commit.load(store / COMMITS / name).part for name in commits.names(store)}


def _measure(path: Path) -> Orphan:
    stats = [entry.lstat() for entry in [path, *path.rglob("*")]]
    newest = max(entry.st_mtime for entry in stats)
    return Orphan(path, sum(entry.st_size for entry in stats), (time.time() - newest) / 3600)
