"""Pulling: a store at a URL, made an ordinary store in a folder."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.format import commits, records
from actstore.format.commits import File
from actstore.format.header import Header
from actstore.format.names import COMMITS, HEADER, PARTS, RECORD_BYTES, RESULTS
from actstore.maintain.choosing import Choice
from actstore.progress import bar
from actstore.read import mirror as mirrors
from actstore.read.mirror import Mirror
from actstore.storage import local
from actstore.store import Store

__all__ = ["pull"]

AT_ONCE = 64  # files that are copied, compared and counted together


def pull(url: str, folder: Path, *, roles: Sequence[str] | None = None, layers: Sequence[int] | None = None) -> Store:
    """Have the store at a URL in a folder, what is there already left as it is.

    Every file is compared with its committed checksum before it is kept, then come the records, and the header, which
    makes it a store, last: what was interrupted goes on where it was. Saved results come along, those in this user's
    cache too. With roles or layers it is a new store of these alone, without results, which are of the whole.
    Raises ActstoreError for a folder that holds another store or something else.
    """
    far = mirrors.opened(url)
    if roles is not None or layers is not None:
        return _pull_some(Choice.of(url, Store(far.folder, mirror=far), roles, layers), far, folder)
    header = Header.load(far.folder)
    found = far.commits(header)
    far.expect(header, found)
    far.gather()
    _check_free(folder, header)
    copy = Mirror(far.storage, folder)
    files = dict(header.files)
    for commit in found:
        files |= {f"{PARTS}/{commit.part}/{name}": file for name, file in commit.files.items()}
    _fetch(far, copy, files)
    for path in local.listed(far.folder / RESULTS):
        if not (folder / RESULTS / path.name).exists():
            copy.copies.keep(f"{RESULTS}/{path.name}", path.read_bytes())
    _make_folders(folder)
    local.sync_tree(folder)
    for name in commits.names(far.folder):
        _publish(folder / COMMITS / name, records.content_of(far.folder / COMMITS / name, RECORD_BYTES), url)
    _publish(folder / HEADER, header.dump(), url)
    return Store(folder)


def _pull_some(choice: Choice, far: Mirror, folder: Path) -> Store:
    _check_free(folder, choice.header)
    _make_folders(folder)
    _fetch(far, Mirror(far.storage, folder), choice.header.files)
    local.sync_tree(folder)
    choice.write(folder)
    _publish(folder / HEADER, choice.header.dump(), far.url)
    return Store(folder)


def _make_folders(folder: Path) -> None:
    for name in (PARTS, RESULTS, COMMITS):
        (folder / name).mkdir(exist_ok=True)


def _fetch(far: Mirror, copy: Mirror, files: Mapping[str, File]) -> None:
    """Have files in the folder of `copy`, those that the mirror has from there."""
    names = list(files)
    with bar(len(names), "files") as progress:
        for first in range(0, len(names), AT_ONCE):
            some = {name: files[name] for name in names[first : first + AT_ONCE]}
            _take(far.folder, copy.folder, some)
            copy.ensure(some)
            progress.advance(len(some))


def _check_free(folder: Path, header: Header) -> None:
    """Raise ActstoreError unless a folder is empty, holds this store, or what was pulled of it before."""
    if folder.exists() and not folder.is_dir():
        raise ActstoreError(f"{folder} is no folder")
    if (folder / HEADER).exists():
        if Header.load(folder).crc32c != header.crc32c:
            raise ActstoreError(f"{folder} is another store; choose another folder")
        return
    known = {COMMITS, PARTS, RESULTS, *(name.partition("/")[0] for name in header.files)}
    if odd := [path for path in local.listed(folder) if path.name not in known and not path.name.startswith(".")]:
        raise ActstoreError(f"{odd[0]} is of no store; choose another folder")
    local.make_folders(folder)


def _take(mirror: Path, folder: Path, files: dict[str, File]) -> None:
    """Copy what the mirror has."""
    for name in files:
        if (mirror / name).exists() and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(mirror / name, folder / name)


def _publish(path: Path, content: bytes, url: str) -> None:
    try:
        local.publish(path, content)
    except FileExistsError:
        if path.read_bytes() != content:
            raise ActstoreError(f"{path} differs from that of {url}: both were written to") from None
