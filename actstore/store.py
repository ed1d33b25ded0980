"""The store: write batches into it, read it with SQL."""

import hashlib
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError, AlreadyCommittedError, CorruptError, PlanError, nearest
from actstore.format import checkpoint, commits, header, plan, records, results
from actstore.format.commits import Commit
from actstore.format.header import Header
from actstore.format.lens import FILES as LENS_FILES
from actstore.format.lens import Lens
from actstore.format.names import PLAN, VOCABULARY
from actstore.format.results import Result
from actstore.format.tables import read_table
from actstore.limits import Limits
from actstore.read.parts import Part
from actstore.sql import connection, index
from actstore.sql import views as sql
from actstore.write import batch
from actstore.write.drafts import Draft

Rows = pl.DataFrame | Sequence[int] | NDArray[np.int64]


class Attention(NamedTuple):
    """Columns of attention (samples, heads or 1, queries), NaN past a sample's last query, and their samples."""

    values: NDArray[np.float32]
    samples: pl.DataFrame


class Store:
    """A store as it was when opened: later commits appear when it is opened again.

    >>> store = open("runs/chameleon-7b")                                       # doctest: +SKIP
    >>> rows = store.sql("from rows where role = 'eoi' and label = 'beagle'")   # doctest: +SKIP
    >>> x = store.residual(rows, layer=12)                                      # doctest: +SKIP
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path, self.limits = path, limits or Limits()
        self.header = Header.load(path)
        self.commits = checkpoint.opened(path, self.header)
        self.parts = [Part(path, commit) for commit in self.commits]
        self._part_of = {number: part for part in self.parts for number in part.commit.batches}

    def __repr__(self) -> str:
        return (
            f"<Store {self.path}: {len(self._part_of)} of {self.n_batches} batches, layers {header.span(self.layers)}>"
        )

    @property
    def run(self) -> dict[str, Any]:
        """The run card: model, revision, dtype, versions, seed, recipe: who produced the store."""
        return self.header.run

    @property
    def layers(self) -> tuple[int, ...]:
        """The residual points that are stored, ascending: 0 = embeddings, L = output of the last block."""
        return self.header.layers

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks whose keys and values are stored, ascending; none in most stores."""
        return self.header.blocks

    @property
    def roles(self) -> list[str]:
        """Roles that have vectors of the residual stream, sorted."""
        return self._kept("residual")

    @property
    def kv(self) -> list[str]:
        """Roles that have keys and values, sorted."""
        return self._kept("keys")

    @cached_property
    def plan(self) -> pl.DataFrame:
        """Every unit of work: batch, sample_id, condition and the sample's own columns."""
        return plan.load(self.checked(PLAN))

    @cached_property
    def vocabulary(self) -> pl.DataFrame:
        """token_id and token."""
        return read_table(self.checked(VOCABULARY))

    @cached_property
    def lens(self) -> Lens | None:
        """The model's final norm and unembedding, where they are kept; the unembedding stays on the disk."""
        optics = self.header.lens
        if optics is None:
            return None
        for name in LENS_FILES:
            self.checked(name)
        return Lens.load(self.path, optics, self.header.d_model, self.header.dtype)

    @cached_property
    def n_batches(self) -> int:
        """How many batches the plan has."""
        return int(self.plan["batch"].n_unique())

    @property
    def remaining(self) -> list[int]:
        """Batches of the plan that no writer has committed, as of now."""
        planned = self.plan["batch"].unique().sort().to_list()
        return [number for number in planned if not self.is_committed(number)]

    @cached_property
    def state(self) -> str:
        """A name for what the store holds: equal states have equal contents."""
        content = self.header.dump() + b"".join(records.dump(commit.record()) for commit in self.commits)
        return hashlib.sha256(content).hexdigest()[:16]

    def is_committed(self, number: int) -> bool:
        """Whether a batch is in the store, as of now."""
        return number in self._part_of or commits.is_committed(self.path, number)

    def sql(self, query: str) -> pl.DataFrame:
        """Run one SELECT over the views rows, samples, plan, parts, run, vocab, results and the saved results.

        Raises QueryError for anything but a SELECT, for SQL that DuckDB refuses and for what goes beyond the limits,
        CorruptError for a table that cannot be read.
        """
        try:
            return sql.select(self._connection, query, self.limits)
        except CorruptError:
            self.close()  # DuckDB may refuse to go on
            if not index.discard(self):
                raise
        return sql.select(self._connection, query, self.limits)

    def residual(self, rows: Rows, layer: int) -> NDArray[np.float32]:
        """Vectors (n, d) of rows at one layer: vector i belongs to row i. `rows` has a column row_id, or is row ids."""
        return self._vectors("residual", rows, self.header.layer_index(layer), self.header.d_model)

    def keys(self, rows: Rows, block: int) -> NDArray[np.float32]:
        """Keys (n, key heads * head width) of rows in one block, after rotation: as attention uses them, head by head.

        Raises ActstoreError unless the keys of the block and of the rows' roles are kept.
        """
        return self._vectors("keys", rows, self.header.block_index(block), self._width("keys"))

    def values(self, rows: Rows, block: int) -> NDArray[np.float32]:
        """Values (n, key heads * head width) of rows in one block, as `keys`."""
        return self._vectors("values", rows, self.header.block_index(block), self._width("values"))

    def _vectors(self, kind: str, rows: Rows, first: int, width: int) -> NDArray[np.float32]:
        """Vectors (n, width) of a kind of array, at index `first` of its layers or blocks."""
        row_ids = _row_ids(rows)
        instead = "read them by store.batches" if kind == "residual" else "ask for fewer rows at a time"
        self.limits.check_array(4 * len(row_ids) * width, f"{len(row_ids)} vectors", instead)
        out = np.empty((len(row_ids), width), np.float32)
        for part, chosen in self._by_part(row_ids):
            part.take(kind, row_ids, chosen, first, out)
        return out

    def _width(self, kind: str) -> int:
        """Width of the keys or values, which all parts share; 0 before the first part is written."""
        arrays = [array for commit in self.commits for array in commit.arrays.items()]
        widths = {spec.shape[-1] for name, spec in arrays if name.startswith(f"{kind}/")}
        if len(widths) > 1:
            raise ActstoreError(f"{self.path}: {kind} of widths {sorted(widths)} in different parts; read store.parts")
        return widths.pop() if widths else 0

    def batches(
        self, query: str, layer: int, *, size: int = 65_536
    ) -> Iterator[tuple[pl.DataFrame, NDArray[np.float32]]]:
        """Rows of a query with their vectors, by row_id, at most `size` at a time and never from two parts at once."""
        rows = self.sql(query)
        row_ids = _row_ids(rows)
        self.header.layer_index(layer)
        for _, chosen in self._by_part(row_ids):
            part = rows[chosen].sort("row_id")
            for piece in part.iter_slices(size):
                yield piece, self.residual(piece, layer)

    def _by_part(self, row_ids: NDArray[np.int64]) -> Iterator[tuple[Part, NDArray[np.int64]]]:
        """Each part that holds some of the rows, with the indices of those."""
        numbers, group = np.unique(row_ids >> 32, return_inverse=True)
        found = [self._part_of.get(int(number)) for number in numbers]
        for number, part in zip(numbers, found, strict=True):
            if part is None:
                raise ActstoreError(f"row_id {row_ids[row_ids >> 32 == number][0]} is not in this store: {self.path}")
        parts = {part: code for code, part in enumerate(dict.fromkeys(found))}
        codes = np.array([parts[part] for part in found], np.intp)[group]
        order = np.argsort(codes, kind="stable")
        edges = np.searchsorted(codes[order], np.arange(len(parts) + 1))
        for code, part in enumerate(parts):
            assert part is not None
            yield part, order[edges[code] : edges[code + 1]]

    def attention(self, role: str, layer: int) -> Attention:
        """The attention of text queries to the key `role` (or `mass`: to every key of the image part) at one layer.

        Raises ActstoreError if nothing is stored for that key.
        """
        position = self.header.layer_index(layer)
        name = f"attention/{role}"
        holding = [part for part in self.parts if name in part.commit.arrays]
        if not holding:
            kept = ", ".join(self._kept("attention")) or "none"
            raise ActstoreError(f"no attention to '{role}' in {self.path}; it has {kept}")
        shapes = [part.commit.arrays[name].shape for part in holding]
        if len({shape[2:-1] for shape in shapes}) > 1:
            raise ActstoreError(
                f"attention to '{role}' has other numbers of heads in other parts: read it by store.parts"
            )
        width = max(shape[-1] for shape in shapes)
        n_values = sum(math.prod(shape[1:-1]) for shape in shapes) * width
        self.limits.check_array(8 * n_values, f"attention to '{role}'", "read it part by part: store.parts")
        values = [part.array(name).layer(position) for part in holding]
        padded = [
            np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, width - value.shape[-1])], constant_values=np.nan)
            for value in values
        ]
        return Attention(np.concatenate(padded), pl.concat(part.samples() for part in holding))

    def draft(self, number: int) -> Draft:
        """Begin a batch of the plan: a locked folder of its own, to be finished by `write`."""
        return Draft(self.path, number)

    def write(
        self,
        number: int,
        *,
        samples: pl.DataFrame,
        rows: pl.DataFrame,
        residual: Mapping[str, NDArray[np.generic]],
        keys: Mapping[str, NDArray[np.generic]] | None = None,
        values: Mapping[str, NDArray[np.generic]] | None = None,
        attention: Mapping[str, NDArray[np.generic]] | None = None,
        attention_dtype: str = "float16",
        by: dict[str, Any] | None = None,
        draft: Draft | None = None,
    ) -> Commit:
        """Write one batch of the plan, durably and whole; numpy in, no torch needed.

        samples: one row for each unit of the batch in the plan (sample_id, status, error, ...).
        rows: one row for each vector (sample_id, role, ...); a role's vectors are taken in the order of its rows.
        residual: role -> (layers, rows of the role, d_model); floats, or bfloat16 bit patterns as uint16.
        keys, values: role -> (blocks, rows of the role, key heads * head width). A role may have both, residual or all.
        attention: key role -> (layers, samples, heads or 1, queries); mass -> (layers, samples, keys).

        Raises AlreadyCommittedError if another writer was first, PlanError or ActstoreError for tables and arrays that
        do not fit, ActstoreError if the disk is full or cannot be written: in each case nothing is committed.
        """
        with draft or self.draft(number) as opened:
            assert opened.number == number, "a draft is of one batch"
            if self.is_committed(number):
                raise AlreadyCommittedError(f"{self.path}: batch {number} is committed already")
            planned = self.plan.filter(pl.col("batch") == number)
            if not planned.height:
                raise PlanError(f"batch {number} is not in the plan of {self.path}")
            vectors = {"residual": residual, "keys": keys or {}, "values": values or {}}
            content = batch.check(self.header, planned, samples, rows, vectors, attention or {}, attention_dtype)
            return opened.commit(content, self.header.crc32c, by or {})

    def save_result(self, measure: str, table: pl.DataFrame, parameters: dict[str, Any]) -> Result:
        """Keep a measure's table under results/, named by the call and by what the store held."""
        names = [commit.name for commit in self.commits]
        return results.save(self.path, measure, table, parameters, self.state, names)

    def saved_result(self, measure: str, parameters: dict[str, Any]) -> Result | None:
        """The result of the same call on the same contents, if it was saved."""
        return results.saved(self.path, measure, parameters, self.state)

    def results(self) -> list[Result]:
        """Every saved result."""
        return results.load_all(self.path)

    def checked(self, name: str) -> Path:
        """The path of a file that the header lists, after its bytes and its columns were checked."""
        return self.header.checked(self.path, name)

    def close(self) -> None:
        """Let go of the SQL connection."""
        if "_connection" in self.__dict__:
            self._finalizer()
            del self.__dict__["_connection"]

    def _kept(self, kind: str) -> list[str]:
        names = {name for commit in self.commits for name in commit.arrays if name.startswith(f"{kind}/")}
        return sorted(name.removeprefix(f"{kind}/") for name in names)

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        made = connection.connect(self)
        self._finalizer = weakref.finalize(self, made.close)
        return made


def open(path: Path | str, *, limits: Limits | None = None) -> Store:  # noqa: A001  (actstore.open reads as it should)
    """Open a store for reading and writing; raises NotAStoreError, FormatError or CorruptError.

    limits: what one SQL question or array may take; ten minutes and half of the machine's memory if not given.
    """
    return Store(Path(path), limits)


def _row_ids(rows: Rows) -> NDArray[np.int64]:
    if not isinstance(rows, pl.DataFrame):
        return np.asarray(rows, np.int64).reshape(-1)
    if "row_id" not in rows.columns:
        raise ActstoreError(
            f"the rows have no column row_id, only {', '.join(rows.columns)}{nearest('row_id', rows.columns)}: "
            "select row_id too, for example: select row_id, label from rows where role = 'eoi'"
        )
    if rows["row_id"].null_count():
        raise ActstoreError("a row_id is NULL")
    return rows["row_id"].cast(pl.Int64).to_numpy()
