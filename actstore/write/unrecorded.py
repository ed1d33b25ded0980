"""Complete parts without a commit record: a copy left it out, or their writer died before it."""

import warnings
from pathlib import Path

import polars as pl

from actstore.errors import ActstoreError, DamagedWarning
from actstore.format import commits
from actstore.format.header import Header
from actstore.format.names import PART_NAME, PARTS
from actstore.format.tables import read_table
from actstore.storage import local
from actstore.write.drafts import is_live


def complete(store: Path) -> list[Path]:
    """Complete parts that no record names, of batches that no part of the store holds.

    Their record was lost, or their writer died before it; nothing here tells which.
    """
    records = commits.names(store)
    read, damaged = commits.readable(store, Header.load(store).crc32c, records)
    named = {commit.part for commit in read} | {path.name for name in damaged for path in of(store, name)}
    there = _there(store)
    unread = commits.superseded(read)
    held = {batch for one in read if one.name not in unread and one.part in there for batch in one.batches}
    found = [store / PARTS / name for name in sorted(there - named)]
    return [path for path in found if not is_live(path) and _batches(path) - held]


def of(store: Path, record: str) -> list[Path]:
    """The folders of parts that may be a record's."""
    return [path for path in local.listed(store / PARTS) if path.name.startswith(f"{record[:9]}-")]


def warn(store: Path) -> None:
    """DamagedWarning where there are some: what they hold looks as if it were not done."""
    numbers = {name[:9] for name in commits.names(store)}
    if all(name[:9] in numbers for name in _there(store)):
        return
    if found := complete(store):
        what = f"not read, for want of their commit records: {len(found)} complete parts"
        warnings.warn(f"{store}: {what}; actstore verify {store} names them", DamagedWarning, stacklevel=3)


def _there(store: Path) -> set[str]:
    return {path.name for path in local.listed(store / PARTS) if PART_NAME.fullmatch(path.name)}


def _batches(folder: Path) -> set[int]:
    """The batches of a part whose tables, which are written last, are whole; none of another."""
    try:
        rows, _ = (read_table(folder / name) for name in commits.TABLES)
        numbers = set((rows["row_id"] // 2**32).to_list()) if folder.name.startswith("c") else {int(folder.name[1:9])}
    except (ActstoreError, OSError, pl.exceptions.PolarsError):
        return set()
    return numbers
