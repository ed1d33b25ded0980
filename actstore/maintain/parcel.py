"""Parcel: what of a store is sent to a URL, and what is made for it."""

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from actstore.errors import ActstoreError
from actstore.format import checkpoint, commits, records, results
from actstore.format.commits import File
from actstore.format.header import Header
from actstore.format.names import COMMITS, HEADER, OWNED, PARTS, PLAN, RECORD_BYTES, RESULTS, TABLES, VOCABULARY
from actstore.read.mirror import RESULTS_BYTES
from actstore.storage import local
from actstore.store import Store

__all__ = ["check_same", "files", "index_of", "lines", "opened", "packed", "results_of"]

SMALL_RESULT = 2**20  # bytes of a result that goes along with the tables


def opened(path: Path) -> tuple[Store, dict[str, bytes]]:
    """A store, and every record of what it was when it was opened, those of batches first: writers may be at work."""
    Header.load(path)  # says where there is no store
    while True:
        names = commits.names(path)
        store = Store(path)
        found = lines(path)
        if [*found] == names:
            return store, found


def lines(path: Path) -> dict[str, bytes]:
    """Every record in a folder by its name, those of batches first."""
    return {name: records.content_of(path / COMMITS / name, RECORD_BYTES) for name in commits.names(path)}


def check_same(store: Store, content: bytes, url: str) -> None:
    """Raise ActstoreError unless the header that lies at a URL is this store's."""
    if records.parse(content, f"{url}/{HEADER}", OWNED)["crc32c"] != store.header.crc32c:
        raise ActstoreError(f"{url} is another store than {store.path}; push to another place")


def files(store: Store, *, saved: bool) -> dict[str, File]:
    """Every file that is sent but for records and header: plan, vocabulary, lens, parts that are read; results."""
    found = dict(store.header.files)
    for commit in store.commits:
        found |= {f"{PARTS}/{commit.part}/{name}": file for name, file in commit.files.items()}
    return found | (results_of(store.path) if saved else {})


def results_of(folder: Path) -> dict[str, File]:
    """The saved results in the folder of a store, by their names in it."""
    named = {path: results.NAME.fullmatch(path.name) for path in local.listed(folder / RESULTS)}
    return {f"{RESULTS}/{one.name}": File(one.stat().st_size, match["crc32c"]) for one, match in named.items() if match}


def index_of(store: Store, every: Mapping[str, bytes]) -> bytes:
    """The checkpoint, of every record: what opens a store in a few requests."""
    return checkpoint.content_of(every, store.header.crc32c)


@contextmanager
def packed(store: Store, *, saved: bool) -> Iterator[Path]:
    """A tar of all tables, and of small results, under their names in the store."""
    names = [PLAN, VOCABULARY]
    names += [f"{PARTS}/{commit.part}/{name}" for commit in store.commits for name in commits.TABLES]
    left = RESULTS_BYTES
    for name, file in sorted(results_of(store.path).items() if saved else (), key=lambda one: one[1].size):
        if file.size <= min(SMALL_RESULT, left):
            names.append(name)
            left -= file.size
    with TemporaryDirectory(prefix="actstore-") as folder:
        path = Path(folder, TABLES)
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as bundle:
            for name in names:
                bundle.add(store.path / name, name, filter=_nobody)
        yield path


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member without who packed it, and when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
