"""Outputs: what a command writes where its user says: in no store, and whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actstore.errors import ActstoreError, told
from actstore.storage import local
from actstore.storage.links import real


class OutputError(ActstoreError):
    """A file that cannot be written where its user says."""


def check(path: Path) -> None:
    """Raise ActstoreError for a path inside a store."""
    from actstore.format.header import around  # every command imports this file for its options

    if inside := around(path):
        raise ActstoreError(f"{path} is inside the store {inside}: write it elsewhere, a store is never edited")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write a file to: in its place when all went well, gone when not.

    A link stays, and what it leads to is replaced; what is no plain file, such as a pipe, is written to as it is.
    Folders that are missing are made.
    Raises OutputError where it cannot be written, and ActstoreError for a path inside a store.
    """
    check(path)
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        target = real(path)
        if (above := next(one for one in target.parents if one.exists())) and not above.is_dir():
            raise OutputError(f"{path}: cannot be written: {above} is no folder")
        local.make_folders(target.parent)
        draft = local.draft_of(target)
        try:
            yield draft
            if target.exists():
                draft.chmod(target.stat().st_mode)
            local.replace(target, draft)
        finally:
            local.discard(draft)
    except OSError as error:
        of_system = told(error) or error
        raise OutputError(f"{path}: cannot be written: {of_system.strerror or error}") from error
