"""Far records: the records of a store at a URL, of which the folder of its mirror has copies.

A name says nothing of the bytes: since it was copied, another store may be at the URL, or a copy of the same one that
grew otherwise. So a copy holds as long as the list has its object under the tag that it was copied with, or under one
that is a digest of it; and a checkpoint speaks for the objects whose tags say that it does.
"""

import json
from collections.abc import Mapping
from contextlib import suppress

from actstore.errors import ActstoreError, CorruptError, FormatError, NotAStoreError
from actstore.format import checkpoint, records
from actstore.format.names import CHECKPOINT, COMMIT_NAME, COMMITS, RECORD_BYTES
from actstore.read.copies import Copies
from actstore.storage import cache, local, objects
from actstore.storage.at_once import each
from actstore.storage.objects import Entry, Storage

__all__ = ["COPY", "FEW", "TRIES", "ChangedError", "FarRecords", "contents", "listed"]

FEW = 2  # objects that are fetched one by one; of more those are looked for that hold several
TRIES = 2  # a connection may have garbled the first
COPY = "remove it there, if it is, and actstore push the store again"
TAGS = f"../{cache.TAGS}"


class FarRecords:
    """The records on `storage`, and what `copies` has of them."""

    def __init__(self, storage: Storage, copies: Copies) -> None:
        self._storage, self._copies = storage, copies

    def refresh(self, header_crc32c: str) -> None:
        """Have every record that is there now in the folder, and no other."""
        here = {path.name for path in local.listed(self._copies.folder / COMMITS)}  # before what others add now
        try:
            there = self._there(header_crc32c)
        except ChangedError:  # since it was listed; once
            there = self._there(header_crc32c)
        for gone in here - there:
            (self._copies.folder / COMMITS / gone).unlink(missing_ok=True)
        with self._copies.keeping():
            local.make_folders(self._copies.folder / COMMITS)

    def has(self, name: str) -> bool:
        """Whether there is a record of this name, as of now; it is in the folder then."""
        if not (self._copies.folder / COMMITS / name).exists():
            try:
                content = b"".join(self._storage.blocks(f"{COMMITS}/{name}", RECORD_BYTES))
            except objects.AbsentError:
                return False
            records.parse(content, f"{self._storage.url}/{COMMITS}/{name}")
            self._keep({name: content})
        return True

    def _there(self, header_crc32c: str) -> set[str]:
        """The names of those that are there now, copied."""
        if not self._storage.lists:
            known = _checkpoint(self._storage, header_crc32c)
            self._keep({name: line for name, line in known.items() if line != self._copy(name)})
            return {*known}
        entries = listed(self._storage)
        tags = self._tags()
        copies = {name: self._copy(name) for name in entries}
        wanted = {name: one for name, one in entries.items() if not _holds(one, copies[name], tags.get(name))}
        fresh = contents(self._storage, wanted, header_crc32c)
        self._keep(fresh)
        copies |= fresh
        opaque = {name: one.tag for name, one in entries.items() if not objects.is_of(one.tag, copies[name])}
        now = {name: [tag, local.crc32c_of(copies[name])] for name, tag in opaque.items()}
        if now != tags:
            self._copies.keep(TAGS, json.dumps(now).encode())
        return {*entries}

    def _copy(self, name: str) -> bytes:
        return self._copies.content(f"{COMMITS}/{name}")

    def _keep(self, found: Mapping[str, bytes]) -> None:
        for name, content in found.items():
            self._copies.keep(f"{COMMITS}/{name}", content)

    def _tags(self) -> dict[str, list[str]]:
        """By the names of records whose tags are no digests: the tag, and the crc32c of what was copied with it."""
        with suppress(ValueError):
            found = json.loads(self._copies.content(TAGS))
            return found if isinstance(found, dict) else {}
        return {}


class ChangedError(ActstoreError):
    """An object is not the one that was listed."""


def listed(storage: Storage) -> dict[str, Entry]:
    """The records that are there, by name."""
    found = {name.rpartition("/")[2]: one for name, one in storage.entries(COMMITS).items()}
    return {name: one for name, one in found.items() if COMMIT_NAME.fullmatch(name)}


def contents(storage: Storage, entries: Mapping[str, Entry], header_crc32c: str) -> dict[str, bytes]:
    """The bytes of records by name, as they lie there: of many those that the checkpoint has are not asked for.

    Where tags are no digests, one record is, and has to be what the checkpoint has.
    """
    found: dict[str, bytes] = {}
    if len(entries) > FEW:
        with suppress(CorruptError):
            known = _checkpoint(storage, header_crc32c)
            told = {name: known[name] for name in entries.keys() & known.keys() if _is_told(known[name], entries[name])}
            found = {name: line for name, line in told.items() if objects.is_of(entries[name].tag, line)}
            if unsure := told.keys() - found.keys():
                last = max(unsure)
                found[last] = _fetched(storage, last, entries[last])
                found |= told if found[last] == told[last] else {}
    left = sorted(entries.keys() - found.keys())
    return found | dict(zip(left, each(lambda name: _fetched(storage, name, entries[name]), left), strict=True))


def _is_told(line: bytes, entry: Entry) -> bool:
    """Whether a line of a checkpoint may be the record of this size."""
    with suppress(CorruptError, FormatError):
        return len(line) == entry.size and bool(records.parse(line, CHECKPOINT))
    return False


def _holds(entry: Entry, copy: bytes, copied: list[str] | None) -> bool:
    """Whether a copy is what is listed now."""
    return bool(copy) and (objects.is_of(entry.tag, copy) or copied == [entry.tag, local.crc32c_of(copy)])


def _fetched(storage: Storage, name: str, entry: Entry) -> bytes:
    """The bytes of a record; of one that is damaged too, which may be one that a compaction replaces."""
    for _ in range(TRIES):
        try:
            content, tag = storage.tagged(f"{COMMITS}/{name}", RECORD_BYTES)
        except objects.AbsentError:
            raise CorruptError(f"{storage.url}/{COMMITS}/{name}: listed, but not there; {COPY}") from None
        if objects.differ(entry.tag, tag):
            raise ChangedError(
                f"{storage.url}/{COMMITS}/{name}: is not the one that was listed a moment ago; it is written over, or "
                "two stores answer there by turns: nothing is known of what is there"
            )
        with suppress(CorruptError, FormatError):
            records.parse(content, name)
            break
    return content


def _checkpoint(storage: Storage, header_crc32c: str) -> dict[str, bytes]:
    """Records by name, as the checkpoint has them; none where there is none, or a damaged one beside a list."""
    where = f"{storage.url}/{CHECKPOINT}"
    for last in range(1, TRIES + 1):
        try:
            content = b"".join(storage.blocks(CHECKPOINT, checkpoint.MOST_BYTES))
            known = checkpoint.parse(content, where, header_crc32c, "push the store again")
            return {name: line for name, line in known.items() if COMMIT_NAME.fullmatch(name)}
        except objects.AbsentError:
            if storage.lists:
                return {}
            raise NotAStoreError(
                f"{storage.url}: a web server cannot say which records it has, and there is no {CHECKPOINT}, which "
                "does; actstore push writes one into a bucket"
            ) from None
        except CorruptError:
            if last == TRIES and not storage.lists:
                raise
    return {}
