"""Mirrors: of a store at a URL the small files, in a folder of the user's own cache, as they lie in a store.

Each opening asks which records there are, and nothing else. Vectors stay where they are and are read a stretch at a
time. Whatever is read is compared with its committed checksum, before it is kept and before it is used: neither the
storage nor the mirror is trusted.
"""

import hashlib
import re
import shutil
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import google_crc32c

from actstore.errors import CorruptError, DamagedWarning, NotAStoreError
from actstore.format import checkpoint, commits, records, results, shards
from actstore.format.commits import Commit, File
from actstore.format.header import Header
from actstore.format.names import HEADER, OWNED, PARTS, RECORD_BYTES, RESULTS, TABLES
from actstore.read.copies import Copies
from actstore.read.far import Far, Held
from actstore.read.far_records import COPY, FEW, TRIES, FarRecords
from actstore.storage import anywhere, cache, local, objects
from actstore.storage.at_once import each

__all__ = ["Mirror", "opened"]

SMALL = 2**20  # bytes of a shard that is fetched whole: a request takes the time of so many
LAYERS_BY_RANGES = 3  # of a shard; where one more is wanted, the shard is fetched whole
LAYERS_OF_WEB = 1  # of a web server or the Hub, which may count requests
WHOLE = 2**28  # bytes of a shard that is read in one request without being kept
ROOM = 10  # shards are kept where this many times the size of the store is free
RESULTS_BYTES = 2**25  # beside tables, in the file that holds them
GATHERED = f"../{cache.GATHERED}"
NOT_NAMES = re.compile(r"[^A-Za-z0-9._-]|^\.+$")  # of a folder


def opened(url: str) -> "Mirror":
    """The mirror of the store at a URL, whose folder has header and records; raises NotAStoreError."""
    storage = anywhere.opened(url)
    content, crc32c = _header(storage)
    name = f"{hashlib.sha256(storage.url.encode()).hexdigest()[:16]}-{crc32c}"  # a new store at an old place is another
    called = NOT_NAMES.sub("_", storage.url.rpartition("/")[2])[: local.LONGEST]
    mirror = Mirror(storage, cache.folder() / cache.STORES / name / called)
    mirror.copies.keep(f"../{cache.URL}", storage.url.encode())
    mirror.copies.keep(HEADER, content)
    cache.clear(mirror.folder)
    mirror.records.refresh(crc32c)
    return mirror


def _again(url: str, folder: Path) -> "Mirror":
    return Mirror(anywhere.opened(url), folder)


def _header(storage: objects.Storage) -> tuple[bytes, str]:
    """The bytes of the header and their crc32c."""
    for last in range(1, TRIES + 1):
        try:
            content = b"".join(storage.blocks(HEADER, RECORD_BYTES))
            return content, str(records.parse(content, f"{storage.url}/{HEADER}", OWNED)["crc32c"])
        except objects.AbsentError:
            raise NotAStoreError(f"{storage.url} is not a store: it has no {HEADER}") from None
        except CorruptError:
            if last == TRIES:
                raise
    raise AssertionError("a try is the last")


class Mirror:
    """The folder of the store that lies on `storage`; pickled, it is opened again."""

    def __init__(self, storage: objects.Storage, folder: Path) -> None:
        self.storage, self.url, self.folder = storage, storage.url, folder
        self.copies = Copies(storage.url, folder)
        self.records = FarRecords(storage, self.copies)
        self._compared: set[str] = set()  # files of the folder, by this process
        self._tails: dict[str, bytes] = {}  # indexes of shards
        self._layers: dict[str, set[int]] = {}  # of shards, that were read by ranges
        self._tables: dict[str, File] = {}
        self._size = 0  # bytes of all parts
        self._gathered, self._gathering = False, threading.Lock()

    def __reduce__(self) -> tuple[Callable[[str, Path], "Mirror"], tuple[str, Path]]:
        return _again, (self.url, self.folder)

    def commits(self, header: Header) -> list[Commit]:
        """Every commit that no compaction replaces, by first batch."""
        try:
            return checkpoint.opened(self.folder, header, parts=False)
        except CorruptError as error:
            raise CorruptError(str(error).replace(str(self.folder), self.url)) from None

    def ensure(self, files: Mapping[str, File]) -> None:
        """Have these files in the folder: what is not there as committed is fetched, several at once.

        Raises CorruptError for one that is missing or of other bytes where it comes from.
        """
        if files.keys() & self._tables.keys():
            self.gather()
        self._have(files)

    def _have(self, files: Mapping[str, File]) -> None:
        each(lambda one: self._fetch(*one), [one for one in files.items() if not self._is_here(*one)])

    def _is_here(self, name: str, file: File) -> bool:
        path = self.folder / name
        if name not in self._compared:
            try:
                file.check(path, whole=True)
            except CorruptError:
                return False
            self._compared.add(name)
        return path.exists()  # a cache may be removed at any time

    def _fetch(self, name: str, file: File) -> None:
        for _ in range(TRIES):
            with suppress(_OtherError), self.copies.drafted(name) as draft:
                with draft.open("xb") as kept:
                    self._read(name, file, kept.write)
                self._compared.add(name)
                return
        raise self._differs(name)

    def compare(self, name: str, file: File) -> None:
        """Raise CorruptError unless what lies at the URL is as committed; nothing of it is kept."""
        try:
            self._read(name, file, len)
        except _OtherError:
            raise self._differs(name) from None

    def _differs(self, name: str) -> CorruptError:
        return CorruptError(f"{self.url}/{name}: its bytes differ from the committed ones (crc32c); {COPY}")

    def _read(self, name: str, file: File, take: Callable[[bytes], object]) -> None:
        checksum, size = 0, 0
        try:
            for block in self.storage.blocks(name, file.size):
                checksum, size = google_crc32c.extend(checksum, block), size + len(block)
                take(block)
        except objects.AbsentError:
            raise CorruptError(f"{self.url}/{name}: committed, but missing; {COPY}") from None
        if (size, f"{checksum:08x}") != file:
            raise _OtherError

    def expect(self, header: Header, found: Sequence[Commit]) -> None:
        """The tables of these commits and those of the header are going to be read: together."""
        self._tables = {name: file for name, file in header.files.items() if name.endswith(".parquet")}
        self._size = sum(file.size for commit in found for file in commit.files.values())
        for commit in found:
            self._tables |= {f"{PARTS}/{commit.part}/{name}": commit.files[name] for name in commits.TABLES}

    def gather(self) -> None:
        """Have all tables and the saved results in the folder, as of the first time that they are asked for.

        And again where somebody has cleared the cache since.
        """
        with self._gathering:
            if self._gathered and (self.folder / GATHERED).exists():
                return
            saved = self._results()
            missing = {name: file for name, file in (self._tables | saved).items() if not self._is_here(name, file)}
            if len(missing) > FEW:
                self._unpack(missing)
            self._have(self._tables)
            each(self._fetch_result, [one for one in saved.items() if not self._is_here(*one)])
            self.copies.keep(GATHERED, b"")
            self._gathered = True

    def _results(self) -> dict[str, File]:
        """The saved results that are listed, whose names have their crc32c."""
        listed = self.storage.listed(RESULTS) if self.storage.lists else {}
        named = {name: results.NAME.fullmatch(name.rpartition("/")[2]) for name in listed}
        return {f"{RESULTS}/{match[0]}": File(listed[name], match["crc32c"]) for name, match in named.items() if match}

    def _fetch_result(self, one: tuple[str, File]) -> None:
        try:
            self._fetch(*one)
        except CorruptError as error:
            warnings.warn(f"left out: {error}", DamagedWarning, stacklevel=2)

    def _unpack(self, wanted: Mapping[str, File]) -> None:
        """Take files from the one that holds all tables, where there is one; what it lacks is fetched by itself."""
        most = 2 * sum(file.size for file in wanted.values()) + 2**12 * len(wanted) + RESULTS_BYTES
        packed = local.draft_of(self.folder / TABLES)
        try:
            with self.copies.keeping():
                self.folder.mkdir(parents=True, exist_ok=True)
                with packed.open("xb") as file:
                    file.writelines(self.storage.blocks(TABLES, most))
            with tarfile.open(packed, mode="r:") as bundle:
                for member in bundle:
                    file_of = wanted.get(member.name) or (None if self.storage.lists else _result_of(member))
                    content = bundle.extractfile(member) if file_of and member.size == file_of.size else None
                    if content and local.crc32c_of(kept := content.read()) == (file_of and file_of.crc32c):
                        self.copies.keep(member.name, kept)
        except (objects.AbsentError, CorruptError, tarfile.TarError):
            return
        finally:
            local.discard(packed)

    @contextmanager
    def shard(self, name: str, file: File, n_chunks: int, asked: shards.Asked) -> Iterator[shards.Shard]:
        """A shard, to read some of it: by ranges, or in one request where nearly all of it is asked for.

        It is kept where so many of its layers were asked for before, and the disk has room for the store.
        """
        seen = self._layers.setdefault(name, set())
        most = LAYERS_OF_WEB if self.storage.web else LAYERS_BY_RANGES
        many = file.size <= SMALL or len(seen | asked.layers) > most
        if many and not self._is_kept(name) and self._has_room():
            self._fetch(name, file)
        nearly_all = (1 - asked.share) * file.size <= SMALL or (self.storage.web and len(asked.layers) > most)
        is_whole = nearly_all and file.size <= WHOLE
        with ExitStack() as entered:
            try:
                read = self._near if self._is_kept(name) else self._whole if is_whole else self._far
                shard = entered.enter_context(read(name, file, n_chunks))
            except objects.NoStretchesError:
                self._fetch(name, file)
                shard = entered.enter_context(self._near(name, file, n_chunks))
            seen |= asked.layers
            yield shard

    def _has_room(self) -> bool:
        with self.copies.keeping():
            self.folder.mkdir(parents=True, exist_ok=True)  # a cache may be removed at any time
            return shutil.disk_usage(self.folder).free > ROOM * self._size

    def _is_kept(self, name: str) -> bool:
        return (self.folder / name).exists()

    @contextmanager
    def _near(self, name: str, _file: File, n_chunks: int) -> Iterator[shards.Shard]:
        """A shard of which the folder has a copy."""
        path = self.folder / name
        try:
            with shards.opened(path, n_chunks) as shard:
                yield shard
        except CorruptError:
            path.unlink(missing_ok=True)
            where = f"{self.url}/{name}"
            raise CorruptError(f"{path}: this copy of {where} was damaged, and is removed; run it again") from None

    @contextmanager
    def _whole(self, name: str, file: File, n_chunks: int) -> Iterator[shards.Shard]:
        """A shard that is read in one request, and not kept."""
        yield shards.Shard(f"{self.url}/{name}", Held(self._content(name, file)), file.size, n_chunks)

    def _content(self, name: str, file: File) -> bytes:
        for _ in range(TRIES):
            blocks: list[bytes] = []
            with suppress(_OtherError):
                self._read(name, file, blocks.append)
                return b"".join(blocks)
        raise self._differs(name)

    @contextmanager
    def _far(self, name: str, file: File, n_chunks: int) -> Iterator[shards.Shard]:
        """A shard that is read where it lies."""
        try:
            far = Far(self.storage, name, file.size, self._tails)
            yield shards.Shard(f"{self.url}/{name}", far, file.size, n_chunks)
        except objects.AbsentError:
            raise CorruptError(f"{self.url}/{name}: committed, but missing; {COPY}") from None
        except CorruptError:
            self._tails.pop(name, None)
            raise


class _OtherError(Exception):
    """What was fetched is not what was committed."""


def _result_of(member: tarfile.TarInfo) -> File | None:
    """The saved result that a member is, by its name."""
    folder, _, name = member.name.rpartition("/")
    match = results.NAME.fullmatch(name)
    return File(member.size, match["crc32c"]) if match and folder == RESULTS and member.isreg() else None
