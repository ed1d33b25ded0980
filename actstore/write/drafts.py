"""Drafts: parts being written, each a folder of its own that appears in the store when committed."""

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from actstore import process
from actstore.errors import ActstoreError
from actstore.format import commits
from actstore.format.commits import Commit, File
from actstore.format.names import COMMITS, PART_NAME, PARTS
from actstore.format.tables import write_table
from actstore.storage import local
from actstore.write.batch import Batch

if TYPE_CHECKING:
    from actstore.read.mirror import Mirror
    from actstore.write.outbox import Outbox

SECONDS = 3600.0  # since a folder of a mirror was touched; then its writer, if nothing holds its lock, is dead
SPARE_BYTES = 2**24  # for the tables and the record of a part
NOTHING: Mapping[str, Sequence[int]] = MappingProxyType({})


class Draft:
    """A part being written: a folder of its own, locked so that gc and other writers leave it alone.

    outbox: of a store at a URL, whose mirror is `store`.
    """

    def __init__(self, store: Path, number: int, kind: str = "b", *, outbox: "Outbox | None" = None) -> None:
        self.store, self.number, self._outbox = store, number, outbox
        self.name = f"{kind}{number:08d}"  # b: of a batch; c: of a compaction
        self.folder = store / PARTS / f"{self.name}-{secrets.token_hex(4)}"
        process.check_forked()
        self._lock = -1
        try:
            self.folder.mkdir(parents=outbox is not None)
            self._lock = os.open(self.folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # some network file systems have no locks: there gc goes by age alone
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        except BaseException as error:  # Ctrl-C too: a notebook keeps what it stopped, with the lock
            self.discard()
            if isinstance(error, OSError):
                raise ActstoreError(f"{store}: cannot be written: {error.strerror or error}") from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def commit(
        self, content: Batch, header_crc32c: str, by: dict[str, Any], replaced: Mapping[str, Sequence[int]] = NOTHING
    ) -> Commit:
        """Write the content, force it to disk and publish it; `by` says who wrote it and how.

        replaced: the records whose rows the content holds, each with its batches; of a compaction only.

        Raises AlreadyCommittedError if another writer was first, ActstoreError if the disk is full or fails; in both
        cases the draft is gone and nothing that was committed is touched.
        """
        try:
            return self._commit(content, header_crc32c, by, replaced)
        except ActstoreError:
            raise
        except OSError as error:
            raise ActstoreError(
                f"{self._where}: {self._what} could not be written: {error.strerror or error}; nothing committed "
                "is harmed: mend that and run the same command again to go on"
            ) from error
        finally:
            self.discard()

    def _commit(
        self, content: Batch, header_crc32c: str, by: dict[str, Any], replaced: Mapping[str, Sequence[int]]
    ) -> Commit:
        from actstore.write import arrays  # zarr takes longer to import than a query runs

        self._check_space(content.bytes + SPARE_BYTES)
        specs = {
            name: arrays.write(self.folder, name, values.array, values.dtype, values.dimensions)
            for name, values in content.values.items()
        }
        write_table(self.folder / "rows.parquet", content.rows)
        write_table(self.folder / "samples.parquet", content.samples)
        if self._outbox is None:
            local.sync_tree(self.folder)
            local.sync(self.store / PARTS)
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        commit = Commit(
            name=f"{self.name}.json",
            store=header_crc32c,
            part=self.folder.name,
            batches=tuple(sorted(batch for held in replaced.values() for batch in held)) or (self.number,),
            files={path.relative_to(self.folder).as_posix(): File.of(path) for path in files},
            arrays=specs,
            rows=content.rows.height,
            samples=content.samples.height,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
            replaces=tuple(sorted(replaced)),
            by=by,
        )
        commit.check_sizes(self.store)  # a gc that took this part for an orphan must not leave a record without files
        if self._outbox is None:
            commits.publish(self.store, commit)
        else:
            self._outbox.publish(commit)
        return commit

    @property
    def _where(self) -> Path | str:
        return self._outbox.url if self._outbox else self.store

    @property
    def _what(self) -> str:
        return f"{'batch' if self.name[0] == 'b' else 'compaction'} {self.number}"

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.store).free
        if free < needed:
            raise ActstoreError(
                f"{self.store}: {self._what} needs up to {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
                "nothing committed is harmed: make room and run the same command again to go on"
            )

    def discard(self) -> None:
        """Remove the folder unless it was committed, and let go of the lock."""
        if self._lock < 0:
            return
        if not is_published(self.store, self.folder.name):
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self._outbox is not None:
            self._outbox.keep_tables(self.folder)
        os.close(self._lock)
        self._lock = -1


def begun(store: Path, number: int, mirror: "Mirror | None" = None) -> Draft:
    """The draft of a batch; of a store at a URL, in its mirror. ActstoreError for a URL where none is written."""
    if mirror is None:
        return Draft(store, number)
    from actstore.write.outbox import Outbox  # its library is of an extra

    outbox = Outbox(mirror)
    _sweep(store)
    return Draft(store, number, outbox=outbox)


@cache
def _sweep(mirror: Path) -> None:
    """Remove what writers of this machine that were killed left in a mirror, once; their batches are not there."""
    for path in local.listed(mirror / PARTS):
        with contextlib.suppress(FileNotFoundError):  # another process sweeps, too
            has_vectors = any(one.name not in commits.TABLES for one in path.iterdir())
            is_old = time.time() - path.stat().st_mtime > SECONDS
            if has_vectors and is_old and not is_published(mirror, path.name) and not is_live(path):
                shutil.rmtree(path, ignore_errors=True)


def is_published(store: Path, part: str) -> bool:
    """Whether the record of a part exists; one that cannot be read counts, so that nothing it names is removed."""
    record = store / COMMITS / f"{part[:9]}.json"
    try:
        return record.exists() and Commit.load(record).part == part
    except ActstoreError:
        return True


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold the lock of a part if no writer on this machine does; yields whether it could be had."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # a pipe of that name would be waited for
    free = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    except OSError:  # a file system without locks: the age of a part is all there is to go by
        pass
    try:
        yield free
    finally:
        os.close(descriptor)


def is_live(folder: Path) -> bool:
    """Whether a writer on this machine holds the lock of a part."""
    try:
        with claimed(folder) as free:
            return not free
    except (FileNotFoundError, NotADirectoryError):
        return False


def live(store: Path) -> set[int]:
    """Batches that some writer on this machine is working on now."""
    folders = [path for path in local.listed(store / PARTS) if PART_NAME.fullmatch(path.name)]
    return {int(path.name[1:9]) for path in folders if path.name.startswith("b") and is_live(path)}
