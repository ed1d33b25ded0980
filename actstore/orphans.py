"""Orphans: what writers that died left behind, and its removal."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from actstore.commits import COMMITS, PARTS, Commit
from actstore.drafts import is_live
from actstore.format import COMMIT_NAME, PART_NAME
from actstore.header import Header

DRAFT_PATTERN = ".*"  # files being published begin with a dot


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
    candidates = [path for path in (store / PARTS).iterdir() if PART_NAME.fullmatch(path.name) and not is_live(path)]
    candidates += [path for folder in (COMMITS, "results", ".") for path in (store / folder).glob(DRAFT_PATTERN)]
    kept = _committed(store)  # read after the locks were seen free: whoever held one has published by now
    found = [_measure(path) for path in candidates if path.name not in kept]
    return sorted((one for one in found if one.hours >= older_than), key=lambda one: one.path)


def remove(orphan: Orphan) -> None:
    """Remove an orphan."""
    if orphan.path.is_dir():
        shutil.rmtree(orphan.path)
    else:
        orphan.path.unlink()


def _committed(store: Path) -> set[str]:
    records = [path for path in (store / COMMITS).iterdir() if COMMIT_NAME.fullmatch(path.name)]
    return {Commit.from_record(path).part for path in records}


def _measure(path: Path) -> Orphan:
    inside = [path, *path.rglob("*")]
    stats = [entry.lstat() for entry in inside]
    newest = max(entry.st_mtime for entry in stats)
    return Orphan(path, sum(entry.st_size for entry in stats), (time.time() - newest) / 3600)
