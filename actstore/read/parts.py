"""Parts: the committed batches of a store, for reading."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from actstore.errors import ActstoreError, CorruptError
from actstore.format.commits import Commit
from actstore.format.names import FORMAT, PARTS
from actstore.format.schema import NOTHING, Columns, rows_of, samples_of
from actstore.format.tables import kinds_of, read_arrow, read_table

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from actstore.format.shards import Asked, Shard
    from actstore.read.arrays import ArrayReader
    from actstore.read.mirror import Mirror

MISSING = {
    "residual": "no residual vectors: only its keys and values were kept; to have them, name it in [capture] roles",
    "keys": "no keys: they were not kept; to have them, name it in [capture] kv",
    "values": "no values: they were not kept; to have them, name it in [capture] kv",
}


@dataclass(frozen=True)
class Places:
    """Rows of a part by ascending row_id: which role, by its number in `roles`, and which place in its arrays."""

    row_ids: NDArray[np.int64]
    roles: list[str]
    codes: NDArray[np.int16]
    places: NDArray[np.int32]


def integers(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of integers, none of them NULL, as numpy; pyarrow's own to_numpy first imports pandas."""
    none = np.empty(0, column.type.to_pandas_dtype())
    return np.concatenate([none, *map(np.from_dlpack, column.chunks)])


def _coded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int16]]:
    """The different texts of a column, and for each row the number of its own."""
    names: dict[str, int] = {}
    codes = [np.empty(0, np.int16)]
    for chunk in column.chunks:
        coded = chunk.dictionary_encode()
        own = np.array([names.setdefault(name, len(names)) for name in coded.dictionary.to_pylist()], np.int16)
        codes.append(own[np.from_dlpack(coded.indices)])
    return list(names), np.concatenate(codes)


class Part:
    """A committed part of a store of this format, for reading; a file's bytes are checked before its first use.

    own: columns that rows have besides, with their types. mirror: of a store at a URL, whose folder is `store`.
    """

    def __init__(
        self,
        store: Path,
        commit: Commit,
        form: int = FORMAT,
        own: Mapping[str, str] = NOTHING,
        mirror: "Mirror | None" = None,
    ) -> None:
        self.store, self.commit, self.format, self.own, self.mirror = store, commit, form, own, mirror
        self._checked: set[str] = set()  # tables

    @cached_property
    def folder(self) -> Path:
        """Where the part lies."""
        return self.store / PARTS / self.commit.part

    def path(self, name: str) -> Path:
        """The path of a file of the part, after its bytes were compared with the committed checksum."""
        path, file = self.folder / name, self.commit.files[name]
        if self.mirror is None:
            file.check(path, whole=True)
        else:
            self.mirror.ensure({self._at(name): file})
        return path

    def _at(self, name: str) -> str:
        """Where a file of the part is in the store."""
        return f"{PARTS}/{self.commit.part}/{name}"

    @property
    def rows_path(self) -> Path:
        """rows.parquet, checked once."""
        return self._once("rows.parquet")

    @property
    def samples_path(self) -> Path:
        """samples.parquet, checked once."""
        return self._once("samples.parquet")

    def _once(self, name: str) -> Path:
        if self.mirror is not None or name not in self._checked:  # a mirror knows what it checked, and what has gone
            self.path(name)
            self._checked.add(name)
        return self.folder / name

    def samples(self) -> pl.DataFrame:
        """The samples of the part, in the order of its attention arrays."""
        return self._table(self.samples_path, samples_of(self.format), self.commit.samples)

    def rows(self) -> pl.DataFrame:
        """The rows of the part, in the order of row_id."""
        return self._table(self.rows_path, rows_of(self.format, self.own), self.commit.rows)

    def _table(self, path: Path, columns: Columns, height: int) -> pl.DataFrame:
        frame = read_table(path, height)
        if dict(frame.schema) != columns:
            raise CorruptError(f"{path}: its columns are not those of format {self.format}")
        return frame

    def array(self, name: str) -> "ArrayReader":
        """The array called `name`, for example residual/eoi."""
        from actstore.read.arrays import ArrayReader  # its codecs take longer to import than a query runs

        spec = self.commit.arrays[name]
        if (mirror := self.mirror) is None:
            return ArrayReader(self._plain_folder, name, spec)

        def far(asked: "Asked") -> "AbstractContextManager[Shard]":
            shard = f"{name}/{spec.shard_of(min(asked.layers))}"
            return mirror.shard(self._at(shard), self.commit.files[shard], spec.chunks_per_shard, asked)

        return ArrayReader(self.folder, name, spec, far)

    @cached_property
    def _plain_folder(self) -> Path:
        """The folder, once it is known that neither it nor one below it is a link."""
        self.commit.check_folders(self.store)
        return self.folder

    @cached_property
    def places(self) -> "Places":
        """Where each row lies; raises CorruptError for rows out of order or outside the arrays.

        Without polars, whose threads a fork lacks: a data loader that forks its workers can read vectors.
        """
        table = read_arrow(self.rows_path, self.commit.rows)
        if kinds_of(table.schema) != rows_of(self.format, self.own) or any(
            table[name].null_count for name in ("row_id", "role", "place")
        ):
            raise CorruptError(f"{self.rows_path}: its columns are not those of format {self.format}")
        row_ids, places = integers(table["row_id"]), integers(table["place"])
        if (np.diff(row_ids) <= 0).any():
            raise CorruptError(f"{self.folder}: row ids are not ascending")
        names, codes = _coded(table["role"])
        sizes = self.commit.roles
        size = np.array([sizes.get(name, 0) for name in names], np.int64)[codes]
        if (strange := (places < 0) | (places >= size)).any():
            raise CorruptError(f"{self.folder}: row_id {row_ids[strange][0]} lies outside the array of its role")
        return Places(row_ids, names, codes, places)

    def take(
        self,
        kind: str,
        row_ids: NDArray[np.int64],
        chosen: NDArray[np.int64],
        firsts: Sequence[int],
        outs: Sequence[NDArray[np.float32]],
    ) -> None:
        """Fill out[chosen] of each of `outs` with the vectors of row_ids[chosen]: `kind` (residual, keys, values), at
        an index of `firsts` of its layers or blocks. Raises ActstoreError for rows without such vectors.
        """
        known = self.places
        wanted = row_ids[chosen]
        index = np.searchsorted(known.row_ids, wanted)
        absent = index == len(known.row_ids)
        absent[~absent] = known.row_ids[index[~absent]] != wanted[~absent]
        if absent.any():
            raise ActstoreError(f"row_id {wanted[absent][0]} is not in this store")
        codes = known.codes[index]
        for code in np.unique(codes):
            of_role, name = np.flatnonzero(codes == code), f"{kind}/{known.roles[code]}"
            if name not in self.commit.arrays:
                raise ActstoreError(f"{self.store}: role '{known.roles[code]}' has {MISSING[kind]}")
            self.array(name).take(firsts, known.places[index[of_role]], outs, chosen[of_role])
