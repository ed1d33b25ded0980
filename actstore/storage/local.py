"""Files that survive power loss: what is written is synced, what is published appears whole or not at all."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from actstore.errors import CorruptError, told

LONGEST = 200  # bytes of a name that a draft takes over: file systems allow 255


@contextmanager
def plain(path: Path) -> Iterator[BinaryIO]:
    """A plain file of a store, open for reading; errors of the system name it, and a pipe is not waited for.

    Raises CorruptError for what is no plain file.
    """
    not_plain = CorruptError(f"{path}: not a plain file; a store holds no links")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise not_plain from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # of a folder, fdopen raises and leaves it open
            raise not_plain
        with os.fdopen(descriptor, "rb", closefd=False) as file, naming(path):
            yield file
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, errors of the system name the file, those too that a library tells in words of its own."""
    try:
        yield
    except Exception as error:
        of_system = error if isinstance(error, OSError) and error.errno is not None else told(error)
        if of_system is None or of_system.filename is not None:
            raise
        raise OSError(of_system.errno, of_system.strerror, str(path)) from error


def content(path: Path) -> bytes:
    """What a file holds that a user names. A pipe is read to its end (bash's `<(...)`), one without a writer refused.

    Raises OSError.
    """
    if not path.is_fifo():
        return path.read_bytes()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        try:
            first = os.read(file.fileno(), 1)
        except BlockingIOError:  # it has a writer, who has not written yet
            first = None
        if first == b"":
            raise OSError("it is a pipe that nobody writes to")
        os.set_blocking(file.fileno(), True)
        return (first or b"") + file.read()


def sync(path: Path) -> None:
    """Force a file or a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force every file below a folder, then every folder from the leaves up, to the disk."""
    for parent, _, names in os.walk(folder, topdown=False, onerror=_raise):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where there is none. `glob` also takes one without rights for empty."""
    try:
        return [folder / name for name in sorted(os.listdir(folder))]  # noqa: PTH208  (there may be many)
    except FileNotFoundError:
        return []


def files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder; raises OSError for a folder that cannot be listed."""
    for where, _, names in os.walk(folder, onerror=_raise):
        yield from (Path(where, name) for name in names)


def _raise(error: OSError) -> None:
    raise error


def make_folders(path: Path) -> None:
    """Create a folder and those above it that are missing, durably."""
    if not path.is_dir():
        make_folders(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def draft_of(path: Path) -> Path:
    """A fresh hidden name beside `path`, under which it is prepared."""
    name = os.fsdecode(os.fsencode(path.absolute().name)[-LONGEST:])
    return path.absolute().with_name(f".{name}.{secrets.token_hex(4)}")


def publish(path: Path, content: bytes) -> None:
    """Create `path` with `content`, durably and only if absent; raises FileExistsError if it is there.

    A link, not a rename: a rename would silently replace what another writer published first.
    """
    draft = draft_of(path)
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    finally:
        discard(draft)
    sync(path.parent)


def discard(draft: Path) -> None:
    """Remove a draft that was not published, if that can be done."""
    with suppress(OSError):  # on a read-only disk even a file that is not there cannot be removed
        draft.unlink()


def replace(path: Path, draft: Path) -> None:
    """Put a finished draft in the place of `path`, durably; readers see what was there or the whole draft."""
    sync_tree(draft) if draft.is_dir() else sync(draft)
    draft.replace(path)
    sync(path.parent)


def open_to_readers(path: Path) -> None:
    """Give a file the mode that `open` gives new ones: safetensors writes its files for their owner alone."""
    probe = draft_of(path)
    probe.touch()
    try:
        path.chmod(probe.stat().st_mode)
    finally:
        discard(probe)


def crc32c(path: Path) -> str:
    """The crc32c of a file's bytes, as eight hexadecimal digits."""
    checksum = 0
    with path.open("rb") as file, naming(path):
        while block := file.read(2**22):
            checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"


def crc32c_of(content: bytes) -> str:
    """The crc32c of bytes, as eight hexadecimal digits.

    >>> crc32c_of(b"123456789")
    'e3069283'
    """
    return f"{google_crc32c.value(content):08x}"
