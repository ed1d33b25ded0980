"""Orphans: what writers that died left behind and what compactions replaced, and its removal."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from actstore.format import commits
from actstore.format.header import Header
from actstore.format.names import COMMITS, PART_NAME, PARTS, RESULTS
from actstore.storage import local
from actstore.write import unrecorded
from actstore.write.drafts import claimed, is_live, is_published

DRAFT_NAME = re.compile(r"\..+\.(json|parquet|duckdb)\.[0-9a-f]{8}(\.wal)?")  # as durable.draft_of makes them


GRACE_HOURS = 24.0  # for readers who opened the store before a compaction; no option makes it less


@dataclass(frozen=True)
class Orphan:
    """A folder or file that no commit names, no writer holds, and nobody touched for some hours.

    Or one that a compaction replaced that many hours ago. complete: see `unrecorded`; removed only when said.
    """

    path: Path
    bytes: int
    hours: float
    replaced: bool = False
    complete: bool = False


def find(store: Path, *, older_than: float = 24.0) -> list[Orphan]:
    """Orphans of a store that are at least `older_than` hours old, and at least 24 if a compaction replaced them.

    The age guards writers on other machines, whose locks cannot be seen here. Raises CorruptError if a commit record
    cannot be read, since what it names must not be taken for an orphan, and if a part that replaced others is damaged.
    """
    header = Header.load(store)
    parts = [path for path in (store / PARTS).iterdir() if PART_NAME.fullmatch(path.name) and not is_live(path)]
    hidden = [path for folder in (COMMITS, RESULTS, ".") for path in local.listed(store / folder)]
    drafts = [path for path in hidden if DRAFT_NAME.fullmatch(path.name) and path.is_file()]
    kept = _committed(store, header)  # read after the locks were seen free: whoever held one has published by now
    lost = unrecorded.complete(store)
    measured = [_measure(one) for one in [*parts, *drafts] if one.name not in kept]
    found = [replace(one, complete=one.path in lost) for one in measured if one is not None]
    found += _replaced(store, header.crc32c, max(older_than, GRACE_HOURS))
    return sorted((one for one in found if one.hours >= older_than), key=lambda one: one.path)


def remove(orphan: Orphan) -> bool:
    """Remove an orphan; False if it is one no longer, because a writer took it or committed it since it was found."""
    if not orphan.path.is_dir():
        orphan.path.unlink(missing_ok=True)
        return True
    try:
        with claimed(orphan.path) as free:  # whoever writes it holds the lock until it is committed
            if not free or (not orphan.replaced and is_published(orphan.path.parents[1], orphan.path.name)):
                return False
            shutil.rmtree(orphan.path)
    except FileNotFoundError:  # its writer, or another who collects, was there at the same time
        return not orphan.path.exists()
    return True


def _replaced(store: Path, header_crc32c: str, older_than: float) -> Iterator[Orphan]:
    """Parts that no reader needs any more; what holds their rows now is read first, whole: it will be the only copy."""
    current = commits.load_all(store, header_crc32c)
    holder_of = {batch: commit for commit in current for batch in commit.batches}
    needed, whole = {commit.part for commit in current}, set()
    read, _ = commits.readable(store, header_crc32c, commits.names(store))
    part_of = {commit.name: commit.part for commit in read}
    for compaction in read:
        hours = _hours_since(compaction.written)
        folders = [folder for name in compaction.replaces for folder in _parts(store, name, part_of.get(name))]
        for folder in folders if hours >= older_than else ():
            if folder.name in needed:
                continue
            holder = holder_of[compaction.batches[0]]
            if holder.name not in whole:
                holder.check(store)
                whole.add(holder.name)
            if measured := _measure(folder):
                yield Orphan(folder, measured.bytes, hours, replaced=True)


def _hours_since(written: str) -> float:
    """Hours since that time; what is no time is not long ago."""
    with suppress(ValueError, TypeError):  # a time without a zone is none
        return (datetime.now(UTC) - datetime.fromisoformat(written)).total_seconds() / 3600
    return 0.0


def _parts(store: Path, record: str, part: str | None) -> list[Path]:
    """The folder of a record's part, if it is there; of a damaged record, which names none, all that may be its."""
    named = [store / PARTS / part] if part else unrecorded.of(store, record)
    return [path for path in named if PART_NAME.fullmatch(path.name) and path.is_dir()]


def _committed(store: Path, header: Header) -> set[str]:
    """Parts that a record names, or may name where it is damaged and replaced; raises CorruptError for another one."""
    read, damaged = commits.readable(store, header.crc32c, commits.names(store))
    for name in damaged.keys() - commits.superseded(read):
        raise damaged[name]
    return {commit.part for commit in read} | {path.name for name in damaged for path in _parts(store, name, None)}


def _measure(path: Path) -> Orphan | None:
    """Its size and age; None of what is gone since it was listed, as a writer's draft may be."""
    try:
        stats = [entry.lstat() for entry in [path, *path.rglob("*")]]
    except FileNotFoundError:
        return None
    newest = max(entry.st_mtime for entry in stats)
    return Orphan(path, sum(entry.st_size for entry in stats), (time.time() - newest) / 3600)
