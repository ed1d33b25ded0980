"""Choosing: of a store at a URL some roles at some layers, made a new store in a folder.

A store has every layer of its header for every row, so a choice is no part of a store but one of its own: header and
records are new, plan, vocabulary and lens the same files, rows keep their row_id, and vectors their bits.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from actstore.errors import ActstoreError, nearest
from actstore.format import commits, records
from actstore.format.commits import Commit
from actstore.format.header import Header, check_capture
from actstore.format.layout import VECTORS
from actstore.format.names import COMMITS, HEADER, OWNED
from actstore.format.schema import KEY
from actstore.maintain.layered import Columns, Some, Vectors
from actstore.progress import bar
from actstore.read.parts import Part
from actstore.storage.urls import checked
from actstore.store import Store
from actstore.write.batch import Batch, Values
from actstore.write.drafts import Draft

__all__ = ["Choice"]

AT_ONCE = 4  # parts that are read and written together


@dataclass(frozen=True)
class Choice:
    """Some arrays of a store at some of its layers, and the header of the store that has no others."""

    store: Store
    arrays: frozenset[str]
    header: Header

    @classmethod
    def of(cls, url: str, store: Store, roles: Sequence[str] | None, layers: Sequence[int] | None) -> "Choice":
        """The choice of the store that is at the URL now; all roles, or all layers, where none are said.

        Attention goes with the role that is its key, `mass` with that name; keys and values with the layer that their
        block reads. Raises ActstoreError for a role or a layer that the store lacks, and where nothing of it is left.
        """
        whole = store.header
        points = whole.layers if layers is None else tuple(sorted({whole.layer_of(layer) for layer in layers}))
        blocks = tuple(block for block in whole.blocks if layers is None or block in points)
        kinds = {"residual", "attention", *(("keys", "values") if blocks else ())}
        there = {name for commit in store.commits for name in commit.arrays}
        arrays = {name for name in there if name.partition("/")[0] in kinds}
        for role in roles or ():
            if role not in _roles(there):
                known = sorted(_roles(there))
                raise ActstoreError(f"no role '{role}' in {store}{nearest(role, known, 'it has ' + ', '.join(known))}")
            if role not in _roles(arrays):
                raise ActstoreError(
                    f"of role '{role}' in {store} nothing is kept at layers {', '.join(map(str, points))}"
                )
        if roles is not None:
            arrays = {name for name in arrays if name.partition("/")[2] in roles}
        pulled = {
            "from": checked(url),
            "store": whole.crc32c,
            "roles": None if roles is None else sorted({*roles}),
            "layers": list(points),
            **({"pulled": before} if (before := whole.pulled) else {}),
        }
        paired = any(name.startswith("keys/") for name in arrays)
        run = {**whole.run, "pulled": pulled}
        check_capture(points, whole.d_model, whole.dtype, run)
        header = replace(whole, layers=points, blocks=blocks if paired else (), run=run)
        record = records.parse(header.dump(), HEADER, OWNED)
        return cls(store, frozenset(arrays), replace(header, crc32c=str(record["crc32c"])))

    def write(self, folder: Path) -> None:
        """Write the batches that are not in the folder yet, each as a part of its own, durably and whole.

        Raises ActstoreError for a folder with something else, or with a batch that was written anew at the URL since.
        """
        todo = [
            (part, [n for n in part.commit.batches if not self._is_there(folder, part, n)]) for part in self.store.parts
        ]
        with bar(sum(len(batches) for _, batches in todo), "batches") as progress, ThreadPoolExecutor(AT_ONCE) as pool:
            for n_batches in pool.map(lambda one: self._write(folder, *one), todo):
                progress.advance(n_batches)

    def _is_there(self, folder: Path, part: Part, batch: int) -> bool:
        if not commits.is_committed(folder, batch):
            return False
        found = Commit.load(folder / COMMITS / commits.name_of(batch))
        if found.store != self.header.crc32c:
            raise ActstoreError(f"{folder} holds what was pulled with another choice; choose another folder")
        if found.by.get("part") != part.commit.part:
            raise ActstoreError(
                f"{self.store}: batch {batch} was compacted or repaired there since it was pulled into {folder}; "
                "pull into another folder"
            )
        return True

    def _write(self, folder: Path, part: Part, batches: Sequence[int]) -> int:
        """Write batches of a part, one after the other: of a shard the index is read once. Returns how many."""
        by = {"by": "actstore pull", "from": str(self.store), "part": part.commit.part}
        for batch in batches:
            with Draft(folder, batch) as draft:
                draft.commit(self._content(part, batch), self.header.crc32c, by)
        return len(batches)

    def _content(self, part: Part, batch: int) -> Batch:
        """What the part has of the batch, as far as it is chosen."""
        chosen = {name: spec for name, spec in part.commit.arrays.items() if name in self.arrays}
        planned = self.store.plan.filter(pl.col("batch") == batch).select(KEY)
        samples = part.samples().with_row_index("entry").join(planned, on=KEY, how="semi").sort("entry")
        entries = samples["entry"].cast(pl.Int64).to_numpy()
        roles = _roles(name for name in chosen if name.partition("/")[0] in VECTORS)
        rows = part.rows().filter((pl.col("row_id") // 2**32 == batch) & pl.col("role").is_in(roles))
        values = {}
        for name, spec in chosen.items():
            kind, _, role = name.partition("/")
            firsts = self._firsts(kind)
            if kind not in VECTORS:
                values[name] = Values(Some(Columns([part.array(name)]), firsts, entries), spec.dtype, spec.dimensions)
            elif (of_role := rows.filter(pl.col("role") == role).with_columns(part=pl.lit(0))).height:
                values[name] = Values(Some(Vectors(name, [part], of_role), firsts), spec.dtype, spec.dimensions)
        placed = rows.with_columns(place=pl.int_range(pl.len()).over("role").cast(pl.Int32))
        return Batch(samples.drop("entry"), placed, values)

    def _firsts(self, kind: str) -> list[int]:
        """Where the chosen layers, or blocks, lie on the first axis of arrays of a kind."""
        whole, mine = self.store.header, self.header
        if kind in ("keys", "values"):
            return [whole.blocks.index(block) for block in mine.blocks]
        return [whole.layers.index(layer) for layer in mine.layers]


def _roles(arrays: Iterable[str]) -> set[str]:
    return {name.partition("/")[2] for name in arrays}
