"""Copies: files of a store at a URL in a folder of this machine, each whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.storage import local

__all__ = ["Copies"]


class Copies:
    """What a folder has of the store at `url`."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def content(self, name: str) -> bytes:
        """The bytes of a copy; none of one that is not there, or that this disk does not give."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""

    def keep(self, name: str, content: bytes) -> None:
        """Have these bytes in the folder; raises ActstoreError where they cannot be kept."""
        with self.drafted(name) as draft, draft.open("xb") as file:
            file.write(content)

    @contextmanager
    def drafted(self, name: str) -> Iterator[Path]:
        """A hidden file that is in place of `name` when all went well."""
        draft = local.draft_of(self.folder / "fetched")
        with self.keeping():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                yield draft
                draft.replace(self.folder / name)
            finally:
                local.discard(draft)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Inside, what the disk says against it is one line."""
        try:
            yield
        except OSError as error:
            if isinstance(error, ActstoreError):
                raise
            raise ActstoreError(
                f"{self.folder}: what is read of {self.url} cannot be kept there ({error.strerror or error}); make "
                "room, or set XDG_CACHE_HOME to another folder"
            ) from error
