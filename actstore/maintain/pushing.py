"""Pushing: a store in a folder, sent to a URL, so that readers there see a store at any time, or none yet."""

import secrets
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from actstore.errors import ActstoreError
from actstore.format import checkpoint, commits, records, results
from actstore.format.commits import File
from actstore.format.lens import FOLDER as LENS
from actstore.format.names import (
    CHECKPOINT,
    COMMITS,
    HEADER,
    OWNED,
    PARTS,
    PLAN,
    RECORD_BYTES,
    RESULTS,
    TABLES,
    VOCABULARY,
)
from actstore.progress import bar
from actstore.read.mirror import RESULTS_BYTES
from actstore.storage import anywhere, local, objects
from actstore.store import Store

__all__ = ["Push", "push"]

AT_ONCE = 8  # files on their way
SMALL_RESULT = 2**20  # bytes of a result that goes along with the tables


@dataclass(frozen=True)
class Push:
    """What was sent: files, their bytes, and records that were not there before."""

    files: int
    bytes: int
    commits: int


def push(store: Path, url: str) -> Push:
    """Send what is not at the URL yet.

    Files come first, each compared with its committed checksum as it is sent, then the records, the header last of all:
    what was interrupted goes on where it was, and nobody reads half a part.
    Raises ActstoreError where another store lies, where another writer was first, and for a server that would let two
    writers overwrite each other; CorruptError for a file that is damaged here.
    """
    opened, storage = Store(store), anywhere.opened(url)
    if storage.web:
        raise ActstoreError(
            f"{storage.url}: takes no files; push to s3://, gs:// or az://, and to the Hub by its own tool: "
            "hf upload OWNER/NAME STORE --repo-type dataset"
        )
    known = _is_there(opened, storage)
    if not known:
        _probe(storage)
        for name in (PLAN, VOCABULARY):
            _create(storage, name, opened.checked(name).read_bytes(), "choose another prefix, or remove what is there")
    there = storage.listed(PARTS) | storage.listed(RESULTS)  # names that no other bytes have
    there |= storage.listed(LENS) if known else {}
    files = _files(opened)
    fresh = {name: file for name, file in files.items() if there.get(name) != file.size}
    with bar(len(fresh), "files") as progress, ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda one: _send(storage, store, *one), fresh.items()):
            progress.advance()
    _check_arrived(storage, {name: file for name, file in fresh.items() if name.startswith(PARTS)})
    fresh_records = _records(opened, storage)
    _write_derived(opened, storage)
    if not known:
        _create(storage, HEADER, opened.header.dump(), "another store was pushed there meanwhile")
    return Push(len(fresh), sum(file.size for file in fresh.values()), fresh_records)


def _is_there(opened: Store, storage: objects.Storage) -> bool:
    """Whether this very store is at the URL already; ActstoreError for another one."""
    try:
        content = b"".join(storage.blocks(HEADER, RECORD_BYTES))
    except objects.AbsentError:
        return False
    if records.parse(content, f"{storage.url}/{HEADER}", OWNED)["crc32c"] != opened.header.crc32c:
        raise ActstoreError(f"{storage.url} is another store than {opened.path}; push to another place")
    return True


def _probe(storage: objects.Storage) -> None:
    """Raise ActstoreError for a server that replaces what should have been there first."""
    name = f"probe-{secrets.token_hex(4)}"
    try:
        storage.create(name, b"1")
        with suppress(objects.PresentError):
            storage.create(name, b"2")
            raise ActstoreError(
                f"{storage.url}: this server ignores If-None-Match: two writers would overwrite each other's records; "
                "push to another one"
            )
    finally:
        storage.remove([name])


def _create(storage: objects.Storage, name: str, content: bytes, instead: str) -> None:
    try:
        storage.create(name, content)
    except objects.PresentError as error:
        raise ActstoreError(f"{error}; {instead}") from None


def _files(opened: Store) -> dict[str, File]:
    """Every file that is sent but for plan, vocabulary and records: of parts that are read, of the lens, results."""
    found = {name: file for name, file in opened.header.files.items() if name not in (PLAN, VOCABULARY)}
    for commit in opened.commits:
        found |= {f"{PARTS}/{commit.part}/{name}": file for name, file in commit.files.items()}
    for path in local.listed(opened.path / RESULTS):
        if match := results.NAME.fullmatch(path.name):
            found[f"{RESULTS}/{path.name}"] = File(path.stat().st_size, match["crc32c"])
    return found


def _send(storage: objects.Storage, store: Path, name: str, file: File) -> None:
    file.check(store / name, whole=True)
    storage.write(name, store / name)


def _check_arrived(storage: objects.Storage, sent: dict[str, File]) -> None:
    there = storage.listed(PARTS) if sent else {}
    if lost := next((name for name, file in sent.items() if there.get(name) != file.size), None):
        raise ActstoreError(f"{storage.url}/{lost}: was sent, and is not listed in its size; push again")


def _records(opened: Store, storage: objects.Storage) -> int:
    """Create the records that are not there, those of batches first; returns how many."""
    there = {name.rpartition("/")[2] for name in storage.listed(COMMITS)}
    fresh = [name for name in commits.names(opened.path) if name not in there]
    for name in fresh:
        content = records.content_of(opened.path / COMMITS / name, RECORD_BYTES)
        _create(storage, f"{COMMITS}/{name}", content, "another writer committed it there")
    return len(fresh)


def _write_derived(opened: Store, storage: objects.Storage) -> None:
    """The checkpoint, of every record, and one file of all tables: what opens a store in a few requests."""
    folder = opened.path / COMMITS
    lines = {name: records.content_of(folder / name, RECORD_BYTES) for name in commits.names(opened.path)}
    storage.write(CHECKPOINT, checkpoint.content_of(lines, opened.header.crc32c))
    with _packed(opened) as path:
        storage.write(TABLES, path)


@contextmanager
def _packed(opened: Store) -> Iterator[Path]:
    """A tar of all tables, and of small results, under their names in the store."""
    names = [PLAN, VOCABULARY]
    names += [f"{PARTS}/{commit.part}/{name}" for commit in opened.commits for name in commits.TABLES]
    left = RESULTS_BYTES
    for name, file in sorted(_files(opened).items(), key=lambda one: one[1].size):
        if name.startswith(f"{RESULTS}/") and file.size <= min(SMALL_RESULT, left):
            names.append(name)
            left -= file.size
    with TemporaryDirectory(prefix="actstore-") as folder:
        path = Path(folder, TABLES)
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as bundle:
            for name in names:
                bundle.add(opened.path / name, name, filter=_nobody)
        yield path


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member without who packed it, and when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
