"""Compaction: small parts merged into large ones; rows and their row_id stay what they are."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from actstore.errors import AlreadyCommittedError
from actstore.format import checkpoint, commits
from actstore.format.commits import Commit
from actstore.format.header import Header
from actstore.format.layout import VECTORS
from actstore.maintain.layered import Columns, Vectors
from actstore.read.parts import Part
from actstore.store import Store
from actstore.write.batch import Batch, Values
from actstore.write.drafts import Draft

PART_BYTES = 2**27  # on disk
PARTS = 500  # of a store that has more of that size
ATTENTION = "attention/"

Kind = tuple[object, ...]


def part_bytes_of(store: Store) -> int:
    """What the parts of a store have when it is compacted: about 128 MB, or so much that there are some 500."""
    return max(PART_BYTES, -(-sum(commit.bytes for commit in store.commits) // PARTS))


def compact(path: Path, *, part_bytes: int | None = None) -> Iterator[Commit]:
    """Merge parts of less than half of `part_bytes` into parts of at most that; yields each compaction when it is done.

    Without `part_bytes` it is that of `part_bytes_of`.

    Any number of writers, readers and compactions may be at work: who loses a race looks again at what there is.
    """
    Header.load(path)  # says where there is no store
    while True:
        number = commits.next_compaction(path)  # before the rest is read: who publishes in between has taken the number
        store = Store(path)
        chosen = next(groups(store, part_bytes_of(store) if part_bytes is None else part_bytes), None)
        if chosen is None:
            checkpoint.write(path, store.header)
            return
        try:
            yield merge(store, number, chosen)
        except AlreadyCommittedError:
            continue


def groups(store: Store, part_bytes: int) -> Iterator[list[Part]]:
    """Two or more small parts that can become one part of at most `part_bytes`, as often as there are such."""
    open_groups: dict[Kind, list[Part]] = {}
    for part in store.parts:
        if part.commit.bytes >= part_bytes / 2:
            continue
        kind = _kind(part.commit)
        group = open_groups.setdefault(kind, [])
        if sum(one.commit.bytes for one in group) + part.commit.bytes > part_bytes:
            yield group  # two at least: each has less than half
            group = open_groups[kind] = []
        group.append(part)
    yield from (group for group in open_groups.values() if len(group) > 1)


def _kind(commit: Commit) -> Kind:
    """Parts of one kind can be merged: the same keys of attention, of one number type and number of heads, and keys
    and values of the same roles, of one width, which have residual vectors in both parts or in neither."""
    found: list[tuple[object, ...]] = []
    for name, spec in commit.arrays.items():
        kind, role = name.split("/", 1)
        if kind == "attention":
            found.append((name, spec.dtype, spec.shape[2:-1]))
        elif kind != "residual":
            found.append((name, f"residual/{role}" in commit.arrays, spec.shape[-1:]))
    return tuple(sorted(found))


def merge(store: Store, number: int, parts: Sequence[Part]) -> Commit:
    """Write the content of some parts as one part and publish it as compaction `number`, which replaces them.

    Raises AlreadyCommittedError if another compaction has the number, CorruptError if what is read is not what was
    committed, ActstoreError if the disk is full: in each case nothing has changed.
    """
    with Draft(store.path, number, "c") as draft:
        merged = {part.commit.name: part.commit.batches for part in parts}
        return draft.commit(
            _content(store.header.dtype, parts), store.header.crc32c, {"by": "actstore compact"}, merged
        )


def _content(dtype: str, parts: Sequence[Part]) -> Batch:
    numbered = [part.rows().with_columns(part=pl.lit(index)) for index, part in enumerate(parts)]
    rows = pl.concat(numbered).sort("row_id")
    samples = pl.concat(part.samples() for part in parts)
    values = {}
    for name in sorted({name for part in parts for name in part.commit.arrays if name.split("/")[0] in VECTORS}):
        kind, role = name.split("/", 1)
        of_role = rows.filter(pl.col("role") == role)
        values[name] = Values(Vectors(name, parts, of_role), dtype, VECTORS[kind])
    attention = {name: spec for name, spec in parts[0].commit.arrays.items() if name.startswith(ATTENTION)}
    for name, spec in attention.items():
        values[name] = Values(Columns([part.array(name) for part in parts]), spec.dtype, spec.dimensions)
    new = rows.drop("part").with_columns(place=pl.int_range(pl.len()).over("role").cast(pl.Int32))
    return Batch(samples, new, values)
