"""Kept: units that a call had done before it was interrupted, in the user's cache folder, for the next such call."""

import hashlib
import io
import pickle
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

import actstore
from actstore.storage import cache as caches
from actstore.storage import local
from actstore.store import Store

__all__ = ["Kept"]

FOLDER = "units"
SECONDS = 5.0  # of a call, after which its units are worth a file
OLDEST = 7 * 24 * 3600.0  # seconds; then nobody asks again
TABLE, TEXT = "arrow", "txt"


class Kept:
    """Values of units by their number, those too that an earlier call of the same function left.

    A call is the same if function, units, state of the store and the code of actstore are. Tables and texts are kept.
    Inside a `with`, which removes them when all went well.
    """

    def __init__(self, store: Store, function: Callable[[Store, Any], Any], units: Sequence[Any]) -> None:
        self._call, self._began = (store.place, store.state, function, units), time.monotonic()
        self.values: dict[int, Any] = {}
        self._written: set[int] = set()
        self._folder: Path | None = None
        with suppress(OSError):
            if local.listed(caches.folder() / FOLDER):
                self._forget_old()
                self._read()
        self.recalled = len(self.values)

    def add(self, number: int, value: Any) -> None:
        """Have the value of a unit."""
        self.values[number] = value
        if time.monotonic() - self._began > SECONDS:
            self.write()

    @property
    def count(self) -> int:
        """How many are on the disk."""
        return len(self._written)

    def __enter__(self) -> "Kept":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.write()
        elif self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def write(self) -> None:
        """Have on the disk what can be kept."""
        with suppress(OSError, pickle.PicklingError, AttributeError, TypeError):  # what cannot be kept is done again
            folder = self._place()
            for number in self.values.keys() - self._written:
                if (content := _bytes(self.values[number])) is None:
                    continue
                folder.mkdir(parents=True, exist_ok=True)
                kind = TEXT if isinstance(self.values[number], str) else TABLE
                path = folder / f"{number}-{local.crc32c_of(content)}.{kind}"
                draft = local.draft_of(path)
                try:
                    draft.write_bytes(content)
                    draft.replace(path)
                finally:
                    local.discard(draft)
                self._written.add(number)

    def _read(self) -> None:
        try:
            found = local.listed(self._place())
        except (pickle.PicklingError, AttributeError, TypeError):  # a lambda; it is not kept either
            return
        for path in found:
            number, _, crc32c = path.stem.partition("-")
            if path.suffix[1:] in (TABLE, TEXT) and number.isdecimal():
                content = path.read_bytes()
                if local.crc32c_of(content) == crc32c:
                    self.values[int(number)] = content.decode() if path.suffix[1:] == TEXT else pl.read_ipc(content)
                    self._written.add(int(number))

    def _place(self) -> Path:
        if self._folder is None:
            asked = hashlib.sha256(pickle.dumps((*self._call, _code())))
            self._folder = caches.folder() / FOLDER / asked.hexdigest()[:32]
        return self._folder

    def _forget_old(self) -> None:
        for folder in local.listed(caches.folder() / FOLDER):
            if time.time() - folder.stat().st_mtime > OLDEST:
                shutil.rmtree(folder, ignore_errors=True)


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, pl.DataFrame):
        return None
    buffer = io.BytesIO()
    value.write_ipc(buffer)
    return buffer.getvalue()


@cache
def _code() -> tuple[tuple[str, int, int], ...]:
    """What tells the code of one version from another, also where both have one number."""
    roots = [Path(actstore.__file__).parent, Path(__file__).parents[1]]
    stats = [(path, path.stat()) for root in roots for path in sorted(root.rglob("*.py"))]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)
