"""Places: where a run keeps what it makes, a folder or a URL."""

import tempfile
from pathlib import Path
from typing import Any, Protocol

import actstore
from actstore.creation.empty import check_free
from actstore.errors import ActstoreError
from actstore.format.names import HEADER, INDEX, RECORD_BYTES, RESULTS
from actstore.format.results import Result
from actstore.storage.urls import is_url
from actstore.store import Store

__all__ = ["Place", "place"]


class Place(Protocol):
    """Where a store is, or will be."""

    @property
    def is_there(self) -> bool:
        """Whether there is a store."""

    def check_free(self) -> None:
        """Raise ActstoreError where none can be made; asked before the model runs."""

    def create(self, **options: Any) -> Store:
        """Make it, as `actstore.create` does; ActstoreError where another process was first."""

    def open(self) -> Store:
        """The store as of now, for writing."""

    def finish(self, *, wrote: bool) -> None:
        """Write what is derived of a store in which nothing is left to do."""

    def share(self, result: Result | None) -> None:
        """Have a result that was saved in the open store where the store is."""


def place(where: Path | str) -> Place:
    """The place of a path or URL."""
    return _At(str(where)) if is_url(where) else _In(Path(where))


class _In:
    """A folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def is_there(self) -> bool:
        return (self._path / HEADER).exists()

    def check_free(self) -> None:
        check_free(self._path)

    def create(self, **options: Any) -> Store:
        return actstore.create(self._path, **options)

    def open(self) -> Store:
        return actstore.open(self._path)

    def finish(self, *, wrote: bool) -> None:
        if wrote or not (self._path / INDEX).exists():
            actstore.open(self._path).write_index()

    def share(self, result: Result | None) -> None:
        pass


class _At:
    """A URL; what is written waits in the user's cache until it was sent."""

    def __init__(self, url: str) -> None:
        from actstore.storage import anywhere  # its libraries are of an extra

        self._url, self._storage = url, anywhere.opened(url)

    @property
    def is_there(self) -> bool:
        from actstore.storage.objects import AbsentError

        try:
            return any(self._storage.blocks(HEADER, RECORD_BYTES))
        except AbsentError:
            return False

    def check_free(self) -> None:
        from actstore.write.outbox import check

        check(self._storage)
        if self.is_there:
            raise ActstoreError(f"{self._url} exists already; open it, or choose another place")

    def create(self, **options: Any) -> Store:
        from actstore.maintain.pushing import push

        with tempfile.TemporaryDirectory(prefix="actstore-") as folder:
            made = actstore.create(Path(folder, "store"), **options)
            push(made.path, self._url)
        return self.open()

    def open(self) -> Store:
        return actstore.open(self._url)

    def finish(self, *, wrote: bool) -> None:
        from actstore.maintain.pushing import write_derived

        if wrote:
            write_derived(self.open())

    def share(self, result: Result | None) -> None:
        if result is not None:
            self._storage.write(f"{RESULTS}/{result.path.name}", result.path)
