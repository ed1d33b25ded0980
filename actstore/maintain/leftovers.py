"""Leftovers: parts at a URL that no record names, of writers that died before theirs, and their removal."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from actstore.format import commits
from actstore.format.names import PART_NAME, PARTS
from actstore.storage.objects import Storage
from actstore.store import Store
from actstore.store import open as open_store
from actstore.write import outbox

__all__ = ["Leftover", "find", "remove"]

LEAST_HOURS = outbox.GIVEN_UP / 3600 * 2  # a writer has given up its part by then


@dataclass(frozen=True)
class Leftover:
    """Objects of a part that nobody names, and hours since the last of them was put."""

    part: str
    names: Sequence[str]
    bytes: int
    hours: float


def find(url: str, *, older_than: float = LEAST_HOURS) -> tuple[Storage, list[Leftover]]:
    """What no record names and nobody has put anything into for `older_than` hours, 24 at least; and where it is.

    Raises CorruptError for a record that cannot be read: what it names must not be taken for left behind.
    """
    storage = _storage(open_store(url))
    ages, sizes = storage.ages(PARTS), storage.listed(PARTS)
    store = open_store(url)  # after the lists: a part that is committed since is named
    read, damaged = commits.readable(store.path, store.header.crc32c, commits.names(store.path))
    for error in damaged.values():
        raise error
    named, parts = {commit.part for commit in read}, defaultdict(list)
    for name in ages:
        parts[name.split("/")[1]].append(name)
    found = [
        Leftover(part, names, sum(sizes.get(name, 0) for name in names), min(ages[name] for name in names))
        for part, names in sorted(parts.items())
        if PART_NAME.fullmatch(part) and part not in named
    ]
    return storage, [one for one in found if one.hours >= max(older_than, LEAST_HOURS)]


def remove(storage: Storage, leftover: Leftover) -> None:
    """Remove it."""
    storage.remove(leftover.names)


def _storage(store: Store) -> Storage:
    assert store.mirror is not None, "a store at a URL"
    outbox.check(store.mirror.storage)
    return store.mirror.storage
