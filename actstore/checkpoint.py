"""Checkpoints: the records of a store of many parts as they were last read, in the user's own cache folder.

What a record said is taken from there while its file and every file of its part is the one that was looked at then: the
same inode, size and times. What was touched since is read and checked anew. A checkpoint never comes with a store, and
nothing is lost with it.
"""

import gc
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from actstore import cache, commits, durable
from actstore.commits import Commit
from actstore.format import COMMITS, PARTS
from actstore.header import Header
from actstore.layout import ArraySpec

MANY = 500  # commits; fewer are read as fast as a checkpoint of them
YOUNG = 10.0  # seconds since a file was touched, within which one more change might leave its times as they are
STALE = 0.1  # of the commits not taken from the checkpoint: it is written anew

Entry = tuple[str, Commit]  # fingerprint of a record and its part, and what the record says


def opened(store: Path, header: Header) -> list[Commit]:
    """Every commit that no compaction replaces, by first batch; raises CorruptError where a file is not as large."""
    with _without_collections():
        return _opened(store, header)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Let the garbage collector rest: much is made here, and none of it is garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _opened(store: Path, header: Header) -> list[Commit]:
    known = _load(store, header)
    taken = set()

    def load(path: Path) -> Commit:
        fingerprint, commit = known.get(path.name, ("", None))
        if commit is None or fingerprint != _fingerprint(store, commit):
            return Commit.load(path)
        taken.add(path.name)
        return commit

    found = commits.load_all(store, header.crc32c, load)
    new = [commit for commit in found if commit.name not in taken]
    for commit in new:
        header.check_fits(commit)
        commit.check_sizes(store)
    batches = [commit for commit in found if commit.name.startswith("b")]  # compactions are few, and always read
    if len(batches) > MANY and len(batches) - len(taken) > STALE * len(batches):
        _save(store, header, batches)
    return found


def _path(store: Path) -> Path:
    return cache.folder() / f"{cache.name_of(store)}.commits"


def _load(store: Path, header: Header) -> dict[str, Entry]:
    """The entries of the checkpoint by name of record; none if there is no checkpoint, or not a whole one."""
    try:
        crc32c, _, content = _path(store).read_bytes().partition(b"\n")
        if crc32c != durable.crc32c_of(content).encode():
            return {}
        maker, *entries = content.splitlines()
        if maker != _maker(header):
            return {}
        return {entry[0]: (entry[1], _commit(*entry)) for entry in map(json.loads, entries)}
    except OSError:
        return {}


def _save(store: Path, header: Header, found: Iterable[Commit]) -> None:
    """Write a checkpoint of the records that nobody touched lately, if that can be done."""
    path = _path(store)
    draft = durable.draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("xb") as file:
            lately = time.time() - YOUNG
            entries = [[commit.name, _fingerprint(store, commit, lately), commit.record()] for commit in found]
            lines = [json.dumps(entry, separators=(",", ":")).encode() for entry in entries if entry[1]]
            content = b"\n".join([_maker(header), *lines])
            file.write(durable.crc32c_of(content).encode() + b"\n" + content)
        draft.replace(path)
    except OSError:
        durable.discard(draft)


def _maker(header: Header) -> bytes:
    """Who checked the records, and for which store: another version may be stricter."""
    return f"{version('actstore')} {header.crc32c}".encode()


def _commit(name: str, _: str, record: dict[str, object]) -> Commit:
    return Commit.of(name, record, ArraySpec.known)


def _fingerprint(store: Path, commit: Commit, lately: float = float("inf")) -> str:
    """Inode, size and times of a record and of the files of its part; "" if one is gone or touched after `lately`."""
    part = f"{store}/{PARTS}/{commit.part}"
    try:
        found = [os.lstat(f"{store}/{COMMITS}/{commit.name}"), *(os.lstat(f"{part}/{name}") for name in commit.files)]
    except OSError:
        return ""
    if max(max(one.st_mtime, one.st_ctime) for one in found) > lately:
        return ""
    told = [(one.st_dev, one.st_ino, one.st_mode, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found]
    return hashlib.sha256(repr(told).encode()).hexdigest()
