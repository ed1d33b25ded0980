"""The checkpoint: the records of a store of many parts in one file beside them, so that opening reads one for all.

It speaks for a record only while that is there, in its size, and was not touched since; what it says is checked as the
record would be. Anything else is read from the record itself, and nothing is lost with a checkpoint.
"""

import gc
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from actstore.errors import CorruptError
from actstore.format import commits, records
from actstore.format.commits import Commit
from actstore.format.header import Header
from actstore.format.names import CHECKPOINT, COMMITS
from actstore.storage import local

MANY = 500  # commits; fewer are read as fast as a checkpoint of them
MOST_BYTES = 2**30


def opened(store: Path, header: Header, *, parts: bool = True) -> list[Commit]:
    """Every commit that no compaction replaces, by first batch; raises CorruptError where a file is not as large.

    parts: whether those lie in the folder, too; not in a mirror of what is at a URL.
    """
    with _without_collections():
        found = commits.load_all(store, header.crc32c, _known(store, header))
        for commit in found:
            header.check_fits(commit)
            if parts:
                commit.check_sizes(store)
        return found


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


def write(store: Path, header: Header) -> None:
    """Leave a checkpoint of every batch that no compaction replaces, where there are many, if it can be written."""
    path = store / CHECKPOINT
    draft = local.draft_of(path)
    try:
        with draft.open("xb") as file:
            begin = os.fstat(file.fileno()).st_mtime_ns  # before any record is read
            found = [one for one in commits.load_all(store, header.crc32c) if one.name.startswith("b")]
            if len(found) <= MANY:
                path.unlink(missing_ok=True)
                return
            file.write(content_of({commit.name: records.dump(commit.record()) for commit in found}, header.crc32c))
        os.utime(draft, ns=(begin, begin))
        local.replace(path, draft)
    except OSError:  # a full disk, or one that cannot be written: every record can still be read
        return
    finally:
        local.discard(draft)


def content_of(lines: Mapping[str, bytes], header_crc32c: str) -> bytes:
    """A checkpoint of these records, by their names."""
    content = b"".join([f"{header_crc32c}\n".encode(), *(f"{name} ".encode() + line for name, line in lines.items())])
    return local.crc32c_of(content).encode() + b"\n" + content


def check(store: Path, header: Header) -> None:
    """Raise CorruptError unless the checkpoint is whole, of this store, and equal to the records that are there."""
    again = "remove it; actstore index makes it again"
    for name, line in _load(store, header, again).items():
        try:
            with local.plain(store / COMMITS / name) as file:
                same = file.read() == line
        except FileNotFoundError:
            continue
        if not same:
            raise CorruptError(f"{store / CHECKPOINT}: differs from {COMMITS}/{name}; if that is intact, {again}")


def _load(store: Path, header: Header, instead: str = "") -> dict[str, bytes]:
    """The bytes of records by name; raises CorruptError for what is no whole checkpoint of this store."""
    path = store / CHECKPOINT
    return parse(records.content_of(path, MOST_BYTES), path, header.crc32c, instead)


def parse(content: bytes, path: Path | str, header_crc32c: str, instead: str = "") -> dict[str, bytes]:
    """The bytes of records by name, in the bytes of a checkpoint; raises CorruptError for what is no whole one."""
    crc32c, _, content = content.partition(b"\n")
    if crc32c != local.crc32c_of(content).encode():
        raise CorruptError(f"{path}: its bytes differ from what was written (crc32c); {instead}")
    owner, *lines = content.splitlines(keepends=True)
    if owner != f"{header_crc32c}\n".encode():
        raise CorruptError(f"{path}: of another store; {instead}")
    return {name.decode(): record for name, _, record in (line.partition(b" ") for line in lines)}


def _known(store: Path, header: Header) -> Callable[[str], Commit | None]:
    """What the checkpoint knows: the commit that the record of a name states, unless the record has to be read."""
    try:
        made = os.lstat(store / CHECKPOINT)
        lines = _load(store, header)
    except (OSError, ValueError, CorruptError):
        return lambda _: None
    folder, decoder = f"{store}/{COMMITS}", msgspec.json.Decoder(Commit)  # as text, since there are many

    def known(name: str) -> Commit | None:
        line = lines.get(name)
        if line is None or not _untouched(f"{folder}/{name}", len(line), made):
            return None
        try:
            return decoder.decode(line).named(name)
        except (ValueError, RecursionError):
            return None

    return known


def _untouched(path: str, size: int, made: os.stat_result) -> bool:
    """Whether a record is a plain file of this size that nobody touched since the checkpoint was made."""
    found = os.lstat(path)
    earlier = found.st_mtime_ns < made.st_mtime_ns and found.st_ctime_ns < made.st_ctime_ns
    return earlier and stat.S_ISREG(found.st_mode) and found.st_size == size
