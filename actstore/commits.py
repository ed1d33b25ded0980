"""Commit records: a batch is in the store when, and only when, its record exists."""

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actstore import durable, records
from actstore.errors import AlreadyCommittedError, CorruptError
from actstore.format import COMMIT_NAME, FILE_NAME, FORMAT, PART_NAME
from actstore.layout import ArraySpec

COMMITS = "commits"
PARTS = "parts"


@dataclass(frozen=True)
class File:
    """Size in bytes and crc32c of one file, as committed."""

    size: int
    crc32c: str

    @classmethod
    def of(cls, path: Path) -> "File":
        """Size and checksum of a file as it is now."""
        return cls(path.stat().st_size, durable.crc32c(path))

    def check(self, path: Path, *, whole: bool) -> None:
        """Raise CorruptError unless `path` is a plain file of this size and, with `whole`, of these bytes."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            raise CorruptError(f"{path}: committed, but missing; run actstore verify, restore it from a copy") from None
        if not stat.S_ISREG(found.st_mode):
            raise CorruptError(f"{path}: not a plain file; a store holds no links")
        if found.st_size != self.size:
            raise CorruptError(f"{path}: {found.st_size} bytes, {self.size} were committed; run actstore verify")
        if whole and durable.crc32c(path) != self.crc32c:
            raise CorruptError(f"{path}: its bytes differ from the committed ones (crc32c); run actstore verify")


@dataclass(frozen=True)
class Commit:
    """One committed part: which batches it holds, its files and its arrays."""

    part: str
    batches: tuple[int, ...]
    files: dict[str, File]
    arrays: dict[str, ArraySpec]
    rows: int
    samples: int
    written: str
    replaces: tuple[str, ...] = ()
    by: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file name of the record: that of its first batch."""
        return f"b{self.batches[0]:08d}.json"

    @property
    def bytes(self) -> int:
        """Bytes of the part on disk."""
        return sum(file.size for file in self.files.values())

    def record(self) -> records.Record:
        """The commit as JSON."""
        return {
            "format": FORMAT,
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
    def from_record(cls, path: Path) -> "Commit":
        """The commit at `path`; raises CorruptError for names or layouts that format 1 does not allow."""
        record = records.load(path)
        try:
            commit = cls(
                part=record["part"],
                batches=tuple(int(batch) for batch in record["batches"]),
                files={name: File(int(size), str(crc)) for name, (size, crc) in record["files"].items()},
                arrays={name: ArraySpec.from_record(name, spec) for name, spec in record["arrays"].items()},
                rows=int(record["rows"]),
                samples=int(record["samples"]),
                written=str(record["written"]),
                replaces=tuple(record["replaces"]),
                by=dict(record["by"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptError(f"{path}: not a commit record of format {FORMAT} ({error!r})") from None
        bad = [name for name in commit.files if not FILE_NAME.fullmatch(name)]
        if bad or not PART_NAME.fullmatch(commit.part) or not commit.batches:
            raise CorruptError(f"{path}: a name that leads out of the store: {bad or commit.part!r}")
        if not {"rows.parquet", "samples.parquet"} <= commit.files.keys():
            raise CorruptError(f"{path}: lists no rows.parquet and samples.parquet")
        return commit

    def check_sizes(self, store: Path) -> None:
        """Raise CorruptError if a file of the part is missing, no plain file, or of another size."""
        for name, file in self.files.items():
            file.check(store / PARTS / self.part / name, whole=False)


def publish(store: Path, commit: Commit) -> None:
    """Make a written part exist; raises AlreadyCommittedError if its batch exists already."""
    try:
        durable.publish(store / COMMITS / commit.name, records.dump(commit.record()))
    except FileExistsError:
        raise AlreadyCommittedError(
            f"{store}: batch {commit.batches[0]} was committed by another writer; this copy is discarded"
        ) from None


def is_committed(store: Path, batch: int) -> bool:
    """Whether the batch has a record of its own now."""
    return (store / COMMITS / f"b{batch:08d}.json").exists()


def load_all(store: Path) -> list[Commit]:
    """Every commit of the store that no other replaces, by first batch."""
    names = sorted(path.name for path in (store / COMMITS).iterdir() if COMMIT_NAME.fullmatch(path.name))
    commits = {name: Commit.from_record(store / COMMITS / name) for name in names}
    replaced = {name for commit in commits.values() for name in commit.replaces}
    kept = [commit for name, commit in commits.items() if name not in replaced]
    batches = [batch for commit in kept for batch in commit.batches]
    if len(batches) != len(set(batches)):
        twice = next(batch for batch in batches if batches.count(batch) > 1)
        raise CorruptError(f"{store}: batch {twice} is claimed by two commit records; restore commits/ from a copy")
    return kept
