"""Kept: units that a call had done before it was interrupted, in the user's cache folder, for the next such call."""

import fcntl
import hashlib
import io
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl

import actstore
from actstore.errors import ActstoreError
from actstore.storage import cache as caches
from actstore.storage import local
from actstore.store import Store

__all__ = ["Kept", "until_answered"]

FOLDER = "units"
SECONDS = 5.0  # of a call, after which its units are worth a file
OLDEST = 7 * 24 * 3600.0  # seconds; then nobody asks again
KINDS = TABLE, TEXT, ARRAYS = "arrow", "txt", "npz"

_finished: ContextVar[list["_Folder"] | None] = ContextVar("finished", default=None)  # those of calls of one answer


@contextmanager
def until_answered() -> Iterator[None]:
    """Inside, units of calls that went well are kept until all of them have; after an error, for the same again."""
    folders: list[_Folder] = []
    token = _finished.set(folders)
    try:
        yield
    except BaseException:
        for folder in folders:
            folder.close()
        raise
    finally:
        _finished.reset(token)
    for folder in folders:
        folder.remove()


class _Folder:
    """A folder of units, which other processes may have in use: it is there until the last of them is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locked: int | None = None

    def lock(self) -> None:
        """Have it in use, if it is there."""
        if self._locked is None and self.path.exists():
            with suppress(OSError):  # a disk without locks
                self._locked = os.open(self.path, os.O_RDONLY)
                fcntl.flock(self._locked, fcntl.LOCK_SH)

    def close(self) -> None:
        """Have it no longer in use."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def remove(self) -> None:
        """Remove it, unless others have it in use: the last of them will."""
        try:
            if self._locked is not None:
                fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            return
        except OSError:  # a disk without locks
            pass
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()


class Kept:
    """Values of units by their number, those too that an earlier call of the same function left.

    A call is the same if function, units, state of the store and the code of actstore are. Tables, texts and arrays by
    name are kept; of a call that takes long they lie on the disk alone. Inside a `with`, which removes them when all
    went well and nobody else has them in use, unless they are kept `until_answered`.
    """

    def __init__(self, store: Store, function: Callable[[Store, Any], Any], units: Sequence[Any]) -> None:
        self._call, self._began = (store.place, store.state, function, units), time.monotonic()
        self._held: dict[int, Any] = {}
        self._files: dict[int, Path] = {}
        self._folder: _Folder | None = None
        with suppress(OSError):
            if local.listed(caches.folder() / FOLDER):
                self._forget_old()
                self._read()
        self.recalled = len(self._files)

    def __contains__(self, number: int) -> bool:
        return number in self._held or number in self._files

    def add(self, number: int, value: Any) -> None:
        """Have the value of a unit."""
        self._held[number] = value
        if time.monotonic() - self._began > SECONDS:
            self.write()

    def value(self, number: int) -> Any:
        """The value of a unit; raises ActstoreError where the disk has lost it."""
        if number in self._held:
            return self._held[number]
        path = self._files[number]
        content = _content(path)
        if content is None:
            raise ActstoreError(f"{path}: this file of a unit that was done was damaged; ask again")
        return _value(content, path.suffix[1:])

    @property
    def count(self) -> int:
        """How many are on the disk."""
        return len(self._files)

    def __enter__(self) -> "Kept":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.write()
        if self._folder is None:
            return
        if kind is not None:
            self._folder.close()
        elif (finished := _finished.get()) is None:
            self._folder.remove()
        else:
            finished.append(self._folder)

    def write(self) -> None:
        """Have on the disk what can be kept."""
        with suppress(OSError, pickle.PicklingError, AttributeError, TypeError):  # what cannot be kept is done again
            folder = self._place()
            for number, value in [*self._held.items()]:
                if (kind := _kind(value)) is None:
                    continue
                content = _bytes(value)
                folder.path.mkdir(parents=True, exist_ok=True)
                folder.lock()
                path = folder.path / f"{number}-{local.crc32c_of(content)}.{kind}"
                draft = local.draft_of(path)
                try:
                    draft.write_bytes(content)
                    draft.replace(path)
                finally:
                    local.discard(draft)
                self._files[number] = path
                del self._held[number]

    def _read(self) -> None:
        try:
            folder = self._place()
        except (pickle.PicklingError, AttributeError, TypeError):  # a lambda; it is not kept either
            return
        folder.lock()
        for path in local.listed(folder.path):
            number = path.stem.partition("-")[0]
            if path.suffix[1:] in KINDS and number.isdecimal() and _content(path) is not None:
                self._files[int(number)] = path

    def _place(self) -> _Folder:
        if self._folder is None:
            asked = hashlib.sha256(pickle.dumps((*self._call, _code())))
            self._folder = _Folder(caches.folder() / FOLDER / asked.hexdigest()[:32])
        return self._folder

    def _forget_old(self) -> None:
        for folder in local.listed(caches.folder() / FOLDER):
            if time.time() - folder.stat().st_mtime > OLDEST:
                shutil.rmtree(folder, ignore_errors=True)


def _content(path: Path) -> bytes | None:
    """The bytes of a file, if they are those that its name has the crc32c of."""
    content = path.read_bytes() if path.exists() else b""
    return content if local.crc32c_of(content) == path.stem.partition("-")[2] else None


def _kind(value: Any) -> str | None:
    is_arrays = isinstance(value, dict) and all(isinstance(one, np.ndarray) for one in value.values())
    return (
        TEXT if isinstance(value, str) else TABLE if isinstance(value, pl.DataFrame) else ARRAYS if is_arrays else None
    )


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    buffer = io.BytesIO()
    if isinstance(value, pl.DataFrame):
        value.write_ipc(buffer)
    else:
        np.savez(buffer, **value)
    return buffer.getvalue()


def _value(content: bytes, kind: str) -> Any:
    if kind == TEXT:
        return content.decode()
    if kind == TABLE:
        return pl.read_ipc(content)
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return dict(found)


@cache
def _code() -> tuple[tuple[str, int, int], ...]:
    """What tells the code of one version from another, also where both have one number."""
    roots = [Path(actstore.__file__).parent, Path(__file__).parents[1]]
    stats = [(path, path.stat()) for root in roots for path in sorted(root.rglob("*.py"))]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)
