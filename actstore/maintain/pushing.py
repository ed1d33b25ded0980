"""Pushing: a store in a folder, sent to object storage, so that readers there see a store at any time, or none yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.format.commits import File
from actstore.format.names import CHECKPOINT, COMMITS, HEADER, PARTS, RECORD_BYTES, RESULTS, TABLES
from actstore.maintain import parcel
from actstore.progress import bar
from actstore.read import far_records
from actstore.storage import anywhere, objects
from actstore.storage.at_once import each
from actstore.store import Store

__all__ = ["Push", "push", "write_derived"]

AT_ONCE = 8  # files on their way
FIRST = "another writer committed it there; push to another place, or go on with what is there (actstore pull)"


@dataclass(frozen=True)
class Push:
    """What was sent: files, their bytes, and records that were not there before."""

    files: int
    bytes: int
    commits: int


def push(store: Path, url: str, *, saved: bool = True) -> Push:
    """Send what is not at the URL yet; saved: saved results, too.

    Files come first, each compared with its committed checksum as it is sent, those of the header only where there are
    none, then the records, the header last of all: what was interrupted goes on where it was, and nobody reads half a
    part.
    Raises ActstoreError where another store lies, where another writer was first, and for a server that would let two
    writers overwrite each other; CorruptError for a file that is damaged here.
    """
    (opened, lines), storage = parcel.opened(store), anywhere.opened(url)
    if storage.web:
        raise ActstoreError(
            f"{storage.url}: takes no files; push to s3://, gs:// or az://, or to the Hub: hf://datasets/OWNER/NAME"
        )
    known = _is_there(opened, storage)
    committed = _committed(opened, storage, lines)
    if not known or lines.keys() - committed:
        objects.check_conditions(storage)
    own = opened.header.files
    for name, file in own.items():
        if not (known and _has(storage, name, file)):
            _create(storage, name, opened.checked(name), "choose another prefix, or remove what is there")
    there = storage.listed(PARTS) | storage.listed(RESULTS)  # names that no other bytes have
    files = {name: file for name, file in parcel.files(opened, saved=saved).items() if name not in own}
    fresh = {name: file for name, file in files.items() if there.get(name) != file.size}
    with bar(len(fresh), "files") as progress:

        def send(one: tuple[str, File]) -> None:
            _send(storage, store, *one)
            progress.advance()

        each(send, [*fresh.items()], AT_ONCE)
    _check_arrived(storage, {name: file for name, file in fresh.items() if name.startswith(PARTS)})
    fresh_records = {name: content for name, content in lines.items() if name not in committed}
    for name, content in fresh_records.items():
        _create(storage, f"{COMMITS}/{name}", content, FIRST)
    _write_derived(opened, storage, lines, saved=saved)
    if not known:
        _create(storage, HEADER, opened.header.dump(), "another store was pushed there meanwhile")
    return Push(len(fresh), sum(file.size for file in fresh.values()), len(fresh_records))


def write_derived(store: Store) -> None:
    """Write anew what is derived of a store that was written to at its URL: the checkpoint, and all tables in one."""
    assert store.mirror is not None, "a store at a URL"
    store.mirror.gather()
    lines = parcel.lines(store.path)
    _write_derived(store, store.mirror.storage, lines, saved=False)


def _write_derived(opened: Store, storage: objects.Storage, lines: Mapping[str, bytes], *, saved: bool) -> None:
    storage.write(CHECKPOINT, parcel.index_of(opened, lines))
    with parcel.packed(opened, saved=saved) as path:
        storage.write(TABLES, path)


def _is_there(opened: Store, storage: objects.Storage) -> bool:
    """Whether this very store is at the URL already; ActstoreError for another one."""
    try:
        content = b"".join(storage.blocks(HEADER, RECORD_BYTES))
    except objects.AbsentError:
        return False
    parcel.check_same(opened, content, storage.url)
    return True


def _committed(store: Store, storage: objects.Storage, lines: Mapping[str, bytes]) -> set[str]:
    """The records of this store that are there already; ActstoreError for one of other bytes."""
    there = far_records.listed(storage)
    both = lines.keys() & there.keys()
    others = {name: there[name] for name in both if not objects.is_of(there[name].tag, lines[name])}
    for name, found in sorted(far_records.contents(storage, others, store.header.crc32c).items()):
        if found != lines[name]:
            raise ActstoreError(f"{storage.url}/{COMMITS}/{name}: exists already, with other bytes; {FIRST}")
    return both


def _has(storage: objects.Storage, name: str, file: File) -> bool:
    """Whether there is such an object, whatever is in it."""
    try:
        return any(storage.blocks(name, file.size))
    except objects.AbsentError:
        return False


def _create(storage: objects.Storage, name: str, content: Path | bytes, instead: str) -> None:
    try:
        storage.create(name, content)
    except objects.PresentError as error:
        raise ActstoreError(f"{error}; {instead}") from None


def _send(storage: objects.Storage, store: Path, name: str, file: File) -> None:
    file.check(store / name, whole=True)
    storage.write(name, store / name)


def _check_arrived(storage: objects.Storage, sent: dict[str, File]) -> None:
    there = storage.listed(PARTS) if sent else {}
    if lost := next((name for name, file in sent.items() if there.get(name) != file.size), None):
        raise ActstoreError(f"{storage.url}/{lost}: was sent, and is not listed in its size; push again")
