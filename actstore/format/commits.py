"""Commit records: a batch is in the store when, and only when, its record exists."""

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from actstore.errors import AlreadyCommittedError, CorruptError
from actstore.format import layout, records
from actstore.format.layout import ArraySpec
from actstore.format.names import ARRAY_NAME, COMMIT_NAME, COMMITS, FILE_NAME, FORMAT, HEADER, PART_NAME, PARTS
from actstore.storage import local

TABLES = ("rows.parquet", "samples.parquet")
PAIRED = ("keys/", "values/")
REMEDY = "run actstore repair, or restore it from a copy"


class File(NamedTuple):
    """Size in bytes and crc32c of one file, as committed."""

    size: int
    crc32c: str

    @classmethod
    def of(cls, path: Path) -> "File":
        """Size and checksum of a file as it is now."""
        return cls(path.stat().st_size, local.crc32c(path))

    def check(self, path: Path | str, *, whole: bool, remedy: str = REMEDY) -> None:
        """Raise CorruptError unless `path` is a plain file of this size and, with `whole`, of these bytes.

        remedy: what is said to do where it is missing.
        """
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            raise CorruptError(f"{path}: committed, but missing; {remedy}") from None
        if not stat.S_ISREG(found.st_mode):
            raise CorruptError(f"{path}: not a plain file; a store holds no links")
        if found.st_size != self.size:
            raise CorruptError(f"{path}: {found.st_size} bytes, {self.size} were committed; run actstore verify")
        if whole and local.crc32c(Path(path)) != self.crc32c:
            raise CorruptError(f"{path}: its bytes differ from the committed ones (crc32c); run actstore verify")


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One committed part: the batches it holds, its files and its arrays; `store` is the crc32c of the header."""

    store: str
    part: str
    batches: tuple[int, ...]
    replaces: tuple[str, ...]
    rows: int
    samples: int
    written: str
    by: dict[str, Any]
    files: dict[str, File]
    arrays: dict[str, ArraySpec]
    name: str = ""  # that of the record, which does not state it

    @property
    def bytes(self) -> int:
        """Bytes of the part on disk."""
        return sum(file.size for file in self.files.values())

    @property
    def roles(self) -> dict[str, int]:
        """Rows of each role; raises ValueError where its arrays of vectors differ in that."""
        found: dict[str, int] = {}
        for name, spec in self.arrays.items():
            kind, role = name.split("/", 1)
            if kind in layout.VECTORS and found.setdefault(role, spec.shape[1]) != spec.shape[1]:
                raise ValueError(f"array {name} has {spec.shape[1]} rows, another of its role {found[role]}")
        return found

    def record(self) -> records.Record:
        """The commit as JSON."""
        return {
            "format": FORMAT,
            "store": self.store,
            "part": self.part,
            "batches": list(self.batches),
            "replaces": list(self.replaces),
            "rows": self.rows,
            "samples": self.samples,
            "written": self.written,
            "by": self.by,
            "files": {name: [file.size, file.crc32c] for name, file in self.files.items()},
            "arrays": {name: spec.record() for name, spec in self.arrays.items()},
        }

    @classmethod
    def load(cls, path: Path) -> "Commit":
        """The commit whose record is at `path`; raises CorruptError for anything that format 1 does not allow."""
        record = records.load(path)
        try:
            return msgspec.convert(record, cls).named(path.name)
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"{path}: not a commit record of format {FORMAT} ({_named(record, error)})") from None

    def named(self, name: str) -> "Commit":
        """The commit with the name of its record; raises ValueError if that is no commit of format 1."""
        commit = msgspec.structs.replace(self, name=name)
        if problem := commit._problem():
            raise ValueError(problem)
        return commit

    def _problem(self) -> str | None:
        """Why this is no commit of format 1, or None: names stay in the part, every file of every array is listed."""
        if not PART_NAME.fullmatch(self.part):
            return f"part {self.part!r} is not the name of a part"
        if problem := _problem_of_names(tuple(self.files), tuple(self.arrays)):
            return problem
        for name, spec in self.arrays.items():
            if problem := self._problem_of(name, spec):
                return problem
        samples = {spec.shape[1] for name, spec in self.arrays.items() if name.startswith("attention/")}
        if self.rows != sum(self.roles.values()) or samples - {self.samples}:
            return f"holds {self.rows} rows and {self.samples} samples, which is not what its arrays hold"
        if self.name.startswith("b") and (self.replaces or self.batches != (int(self.name[1:9]),)):
            return f"holds batches {list(self.batches)}, which is not what its name says"
        return None

    def _problem_of(self, name: str, spec: ArraySpec) -> str | None:
        """Why this is no array of format 1, or None."""
        if problem := spec.problem():
            return f"array {name}: not a layout of format 1 ({problem})"
        if not spec.has(layout.dimensions_of(name)):
            return f"array {name!r} has other axes than format 1 gives it"
        absent = [path for path in spec.paths() if f"{name}/{path}" not in self.files]
        return f"lists no {name}/{absent[0]}" if absent else None

    def check_store(self, store: Path, header_crc32c: str) -> None:
        """Raise CorruptError unless it was committed to the store with this header."""
        if self.store != header_crc32c:
            raise CorruptError(f"{store / COMMITS / self.name}: committed to another store than that of {HEADER}")

    def check(self, store: Path) -> None:
        """Raise CorruptError unless every file of the part has the committed bytes."""
        self.check_folders(store)
        for name, file in self.files.items():
            file.check(store / PARTS / self.part / name, whole=True)

    def check_sizes(self, store: Path) -> None:
        """Raise CorruptError if the part is a link, or a file of it is missing, no plain file, or of another size.

        The folders below are looked at before an array is read (check_folders): there are more of them than files.
        """
        folder = f"{store}/{PARTS}/{self.part}"  # many files: as text, since a Path each costs more than the check
        _refuse_link(folder)
        for name, file in self.files.items():
            file.check(f"{folder}/{name}", whole=False)

    def check_folders(self, store: Path) -> None:
        """Raise CorruptError if the part's folder, or one below it that holds its files, is a link."""
        for name in _folders(tuple(self.files)):
            _refuse_link(f"{store}/{PARTS}/{self.part}{name}")


def _named(record: records.Record, error: Exception) -> str:
    """What is wrong with a record; of a wrong field of a file or an array, with the name of that."""
    for members, kind in (("files", File), ("arrays", ArraySpec)):
        found = record.get(members)
        for name, value in found.items() if isinstance(found, dict) else ():
            try:
                msgspec.convert(value, kind)
            except (ValueError, RecursionError) as wrong:
                return f"{members[:-1]} {name}: {wrong}"
    return str(error)


@lru_cache(maxsize=64)  # the parts of a store have mostly the same names
def _problem_of_names(files: tuple[str, ...], arrays: tuple[str, ...]) -> str | None:
    """What no part can have or lack by the names of its files and arrays alone, or None."""
    if bad := [name for name in files if not FILE_NAME.fullmatch(name)]:
        return f"file {bad[0]!r} leads out of the part"
    if absent := [name for name in TABLES if name not in files]:
        return f"lists no {absent[0]}"
    if bad := [name for name in arrays if not ARRAY_NAME.fullmatch(name)]:
        return f"{bad[0]!r} is not the name of an array"
    keys, values = ({name[len(kind) :] for name in arrays if name.startswith(kind)} for kind in PAIRED)
    if odd := sorted(keys ^ values):
        return f"holds keys or values of {odd[0]}, but not both"
    return None


@lru_cache(maxsize=64)
def _folders(files: tuple[str, ...]) -> frozenset[str]:
    """The part's own folder, as "", and every one below it that holds a file or a folder, as "/NAME"."""
    found = {""}
    for name in files:
        while name := name.rpartition("/")[0]:
            found.add(f"/{name}")
    return frozenset(found)


def _refuse_link(folder: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):  # what is not there is missed with its files
        if stat.S_ISLNK(os.lstat(folder).st_mode):
            raise CorruptError(f"{folder}: not a plain folder; a store holds no links")


def name_of(batch: int) -> str:
    """The name of the record of a batch."""
    return f"b{batch:08d}.json"


def publish(store: Path, commit: Commit) -> None:
    """Make a written part exist; raises AlreadyCommittedError if its record exists already."""
    try:
        local.publish(store / COMMITS / commit.name, records.dump(commit.record()))
    except FileExistsError:
        what = f"batch {commit.batches[0]}" if commit.name.startswith("b") else f"compaction {int(commit.name[1:9])}"
        raise AlreadyCommittedError(
            f"{store}: {what} was committed by another writer; this copy is discarded"
        ) from None


def is_committed(store: Path, batch: int) -> bool:
    """Whether the batch has a record of its own now; records stay when a compaction replaces them."""
    return (store / COMMITS / name_of(batch)).exists()


def names(store: Path) -> list[str]:
    """The records of a store, sorted; anything else in the folder is ignored."""
    try:
        return sorted(name for name in os.listdir(store / COMMITS) if COMMIT_NAME.fullmatch(name))  # noqa: PTH208  (many)
    except FileNotFoundError:
        raise CorruptError(f"{store}: the folder {COMMITS} is missing; restore it from a copy") from None


def load_all(store: Path, header_crc32c: str, known: Callable[[str], Commit | None] = lambda _: None) -> list[Commit]:
    """Every commit of the store that no compaction replaces, by first batch; raises CorruptError for a strange one.

    known: the commit that the record of this name states, where that is known without reading it.
    """
    folder = store / COMMITS
    found, compactions = _listed(store, header_crc32c)
    unread = superseded(compactions)
    kept = [commit for commit in compactions if commit.name not in unread]
    kept += [known(name) or Commit.load(folder / name) for name in found if name.startswith("b") and name not in unread]
    batches_of: dict[str, tuple[int, ...] | None] = {
        name: (int(name[1:9]),) if name.startswith("b") else None for name in found
    }
    batches_of |= {commit.name: commit.batches for commit in compactions}
    for commit in kept:
        commit.check_store(store, header_crc32c)
        if commit.name.startswith("c") and not _holds_what_it_replaces(commit, batches_of):
            raise CorruptError(f"{folder / commit.name}: its batches are not those of the records it replaces")
    _check_disjoint(store, kept)
    return sorted(kept, key=lambda commit: commit.batches)


def _listed(store: Path, header_crc32c: str) -> tuple[list[str], list[Commit]]:
    """The names of all records, and the compactions among them.

    A folder that others add to while it is listed may show a compaction and not yet what it replaces, although that
    is older: then it is listed again.
    """
    for _ in range(2):
        found = names(store)
        compactions, unreadable = readable(store, header_crc32c, (name for name in found if name.startswith("c")))
        replaced = replaced_by(compactions)
        if replaced <= set(found):
            break
    for name, error in unreadable.items():
        if name not in replaced:
            raise error
    return found, compactions


def readable(store: Path, header_crc32c: str, wanted: Iterable[str]) -> tuple[list[Commit], dict[str, CorruptError]]:
    """The commits of these records, and why the others of them cannot be read as records of this store."""
    read, unreadable = [], {}
    for name in wanted:
        try:
            commit = Commit.load(store / COMMITS / name)
            commit.check_store(store, header_crc32c)
            read.append(commit)
        except CorruptError as error:
            unreadable[name] = error
    return read, unreadable


def next_compaction(store: Path) -> int:
    """One more than the largest number of a compaction."""
    return max((int(name[1:9]) for name in names(store) if name.startswith("c")), default=-1) + 1


def _holds_what_it_replaces(compaction: Commit, batches_of: Mapping[str, tuple[int, ...] | None]) -> bool:
    """Whether its batches are those of the records it replaces; of a damaged record they are not known (None)."""
    replaced = [batches_of.get(name, ()) for name in compaction.replaces]
    known = sorted({batch for batches in replaced for batch in batches or ()})
    if None not in replaced:
        return bool(known) and list(compaction.batches) == known
    return bool(compaction.batches) and set(known) <= set(compaction.batches)


def _check_disjoint(store: Path, kept: Iterable[Commit]) -> None:
    held = sorted(batch for commit in kept for batch in commit.batches)
    if twice := [batch for batch, following in pairwise(held) if batch == following]:
        raise CorruptError(f"{store}: batch {twice[0]} is claimed by two commit records; restore commits/ from a copy")


def superseded(found: Iterable[Commit]) -> set[str]:
    """Names of the records that are no longer read, damaged as they may be: those that compactions replace, and those
    of the batches that compactions hold."""
    compactions = [commit for commit in found if commit.name.startswith("c")]
    replaced = replaced_by(compactions)
    return replaced | {name_of(batch) for one in compactions if one.name not in replaced for batch in one.batches}


def replaced_by(commits: Iterable[Commit]) -> set[str]:
    """Names of the records that compactions replace: they are no longer read, but stay."""
    return {name for commit in commits for name in commit.replaces}
