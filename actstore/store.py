"""The store: write batches into it, read it with SQL."""

import hashlib
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore import process
from actstore.errors import ActstoreError, AlreadyCommittedError, CorruptError, PlanError, QueryError
from actstore.format import checkpoint, commits, header, plan, records, results
from actstore.format.commits import Commit
from actstore.format.given import named, numbers, place_of, text, whole
from actstore.format.header import Header
from actstore.format.lens import FILES as LENS_FILES
from actstore.format.lens import Lens
from actstore.format.names import INDEX, PLAN, VOCABULARY
from actstore.format.origin import origin
from actstore.format.results import Result, Results
from actstore.format.tables import read_table
from actstore.handing import joined
from actstore.limits import Limits
from actstore.read.parts import Part
from actstore.read.remote import mirrored
from actstore.read.vectors import Attention, Rows, Vectors, one_by_one, row_ids_of
from actstore.sql import connection, index, overview
from actstore.sql import query as queries
from actstore.sql.own import Parameters, frame, rows_of
from actstore.sql.query import select
from actstore.sql.tables import Tables
from actstore.storage.at_once import each
from actstore.write import batch, unrecorded
from actstore.write.drafts import Draft, begun

if TYPE_CHECKING:
    from actstore.read.mirror import Mirror

    State = tuple[Path, Path, Limits, Header, list[Commit], Mirror | None]  # a process may go to another folder

__all__ = ["Store", "open"]


class Store:
    """A store as it was when opened: later commits appear when it is opened again.

    >>> store = open("runs/chameleon-7b")                                       # doctest: +SKIP
    >>> rows = store.sql("from rows where role = 'eoi' and label = 'beagle'")   # doctest: +SKIP
    >>> x = store.residual(rows, layer=12)                                      # doctest: +SKIP
    """

    def __init__(self, path: Path, limits: Limits | None = None, *, mirror: "Mirror | None" = None) -> None:
        opened = Header.load(path)
        found = mirror.commits(opened) if mirror else checkpoint.opened(path, opened)
        self.__setstate__((path, path.absolute(), limits or Limits(), opened, found, mirror))

    def __getstate__(self) -> "State":
        """What another process needs to have this very store, as it was when opened."""
        return self._said, self.path, self.limits, self.header, self.commits, self.mirror

    def __setstate__(self, state: "State") -> None:
        process.hear_interruptions()
        self._said, self.path, self.limits, self.header, self.commits, self.mirror = state
        if mirror := self.mirror:
            mirror.expect(self.header, self.commits)
        self.parts = [Part(self.path, commit, self.header.form, self.header.rows, mirror) for commit in self.commits]
        self._vectors = Vectors(str(self), self.header, self.parts, self.limits, each if mirror else one_by_one)
        self._saved: list[Result] = []

    def __str__(self) -> str:
        """The path by which it was opened, or its URL; `path` is absolute, of a store at a URL that of its mirror."""
        return self.mirror.url if self.mirror else str(self._said)

    @property
    def place(self) -> str:
        """Where it is, for other processes: its absolute path, or its URL."""
        return self.mirror.url if self.mirror else str(self.path)

    def __repr__(self) -> str:
        done = len(self._vectors.part_of)
        return f"<Store {self}: {done} of {self.n_batches} batches, layers {header.span(self.layers)}>"

    def _repr_html_(self) -> str:
        done = f"{len(self._vectors.part_of)} of {self.n_batches} batches"
        lines = {
            "store": f"{self}, {done}",
            **{name: self.run[name] for name in ("model", "recipe_name", "dtype", "device") if self.run.get(name)},
            "layers": f"{header.span(self.layers)} of width {self.header.d_model}",
            "roles": ", ".join(self.roles),
            "results": ", ".join(one.name for one in self.results()) or "none",
        }
        rows = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in lines.items())
        return f"<table>{''.join(rows)}</table>"

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
        return self._vectors.kept("residual")

    @property
    def kv(self) -> list[str]:
        """Roles that have keys and values, sorted."""
        return self._vectors.kept("keys")

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
        if self.mirror:
            self.mirror.records.refresh(self.header.crc32c)  # of all records at once: then none is asked for
        planned = self.plan["batch"].unique().sort().to_list()
        return [n for n in planned if n not in self._vectors.part_of and not commits.is_committed(self.path, n)]

    @cached_property
    def state(self) -> str:
        """A name for what the store holds: equal states have equal contents."""
        content = self.header.dump() + b"".join(records.dump(commit.record()) for commit in self.commits)
        return hashlib.sha256(content).hexdigest()[:16]

    def is_committed(self, number: int) -> bool:
        """Whether a batch is in the store, as of now."""
        number = whole(number, "a batch")
        here = number in self._vectors.part_of or commits.is_committed(self.path, number)
        return here or (self.mirror is not None and self.mirror.records.has(commits.name_of(number)))

    def sql(
        self, query: str, parameters: Parameters | None = None, *, tables: Mapping[str, Any] | None = None
    ) -> pl.DataFrame:
        """Run one SELECT over the views rows, samples, answers, plan, parts, run, vocab, results and saved ones.

        parameters: values for `?` in it, in a list, or for `$name`, by name.
        tables: your own (polars, pandas, Arrow) by the names that the query has for them, known to it alone:
        `store.sql("from rows join mine using (sample_id)", tables={"mine": ratings})`.
        Dates and hours of moments with a time zone are those of UTC, on every machine. Raises QueryError for anything
        but a SELECT, for SQL that DuckDB refuses and for what goes beyond the limits, CorruptError for a table that
        cannot be read.
        """
        process.check_forked()
        if isinstance(query, str) and len(words := query.split()) == 1 and words[0] in {*self.roles, *self.kv}:
            raise QueryError(f"'{words[0]}' is a role; its rows are \"from rows where role = '{words[0]}'\"")
        for _ in range(results.TRIES):
            try:
                return select(self._connection, query, self.limits, parameters, tables)
            except (CorruptError, QueryError) as error:
                saved_anew = any(not one.path.exists() for one in self._saved)
                if isinstance(error, QueryError) and not saved_anew:
                    raise
                self.close()  # DuckDB may refuse to go on
                if not (saved_anew or index.discard(self._tables)):
                    raise
        return select(self._connection, query, self.limits, parameters, tables)

    def json_columns(
        self, query: str, parameters: Parameters | None = None, *, tables: Mapping[str, Any] | None = None
    ) -> list[str]:
        """The columns of a SELECT whose type is JSON: `sql` gives them as text, `parameters` of `results` for one."""
        return queries.json_columns(self._connection, query, self.limits, parameters, tables)

    def residual(
        self, rows: Rows, layer: int | None = None, *, layers: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Vectors (n, d) of rows at one layer, or (n, L, d) at several `layers`: vector i belongs to row i.

        rows: a table of polars, pandas or Arrow with a column row_id, or row ids (n,) as a list, an array or a tensor.
        layer: -1 is the last that is stored, -2 the one before.
        """
        if (layer is None) == (layers is None):
            raise ActstoreError("say one layer, or layers=[...] for several: store.residual(rows, 12)")
        if layers is None:
            assert layer is not None
            return self._vectors.residual(rows, layer)
        return self._vectors.residuals(rows, layers)

    def keys(self, rows: Rows, block: int) -> NDArray[np.float32]:
        """Keys (n, key heads * head width) of rows in one block, after rotation: as attention uses them, head by head.

        Raises ActstoreError unless the keys of the block and of the rows' roles are kept.
        """
        return self._vectors.of_block("keys", rows, block)

    def values(self, rows: Rows, block: int) -> NDArray[np.float32]:
        """Values (n, key heads * head width) of rows in one block, as `keys`."""
        return self._vectors.of_block("values", rows, block)

    def batches(
        self, rows: str | Rows, layer: int, *, size: int = 65_536
    ) -> Iterator[tuple[pl.DataFrame, NDArray[np.float32]]]:
        """Rows with their vectors, by row_id, at most `size` at a time and never from two parts at once.

        rows: a query, or as for `residual`.
        """
        found = self.sql(rows) if isinstance(rows, str) else rows
        return self._vectors.batches(rows_of(found), layer, size=size)

    def attention(self, role: str, layer: int, rows: str | Rows | None = None) -> Attention:
        """The attention of text queries to the key `role` (or `mass`: to every key of the image part) at one layer.

        rows: a query, or as for `residual`: value i is of the sample of row i; without them of every sample once.
        Raises ActstoreError if nothing is stored for that key, or for the sample of a row.
        """
        of_rows = (
            None if rows is None else self.described(row_ids_of(self.sql(rows) if isinstance(rows, str) else rows))
        )
        return self._vectors.attention(role, layer, of_rows)

    def described(self, rows: str | Rows) -> pl.DataFrame:
        """Rows with their own columns, and those of the view rows that they lack, in their order.

        rows: a query, or as for `residual`.
        """
        found = rows_of(self.sql(rows) if isinstance(rows, str) else rows)
        ids = row_ids_of(found)
        order = pl.DataFrame({"row_id": ids}).with_row_index("asked_nth")
        known = self.sql(
            "select rows.* from asked join rows using (row_id) order by asked_nth", tables={"asked": order}
        )
        if len(lost := np.setdiff1d(ids, known["row_id"].to_numpy())):
            raise ActstoreError(f"row_id {lost[0]} is not in this store: {self}")
        if not isinstance(found, pl.DataFrame):
            return known
        return found.hstack([one for one in known if one.name not in found.columns])

    def show(self, sample_id: str, condition: str = "none") -> Any:
        """One sample: its picture, where the text looks in it, tokens, what was said, the logit lens.

        A notebook shows it as a page, `rich.print` in a terminal, and its `save` writes .html, .png or .svg.
        Raises ActstoreError, with the nearest, for a sample that is not there.
        """
        sample_id, condition = text(sample_id, "sample_id"), text(condition, "condition")
        return joined("actstore.store", "show")(self, sample_id, condition)

    def explore(
        self, query: str = "from rows", roles: str | Sequence[str] = (), *, limit: int = 5_000, **saes: Any
    ) -> Any:
        """The points of some roles in the plane, as a page that a notebook shows: see `actstore_analyze.explore`."""
        return joined("actstore.store", "explore")(self, query, roles, limit=limit, **saes)

    @cached_property
    def measure(self) -> Any:
        """The measures: `store.measure.overlap(k=10)` is what `actstore overlap STORE -k 10` computes and keeps.

        What comes back has `.table`, `.figure`, `.methods`, `.command` and `.save(path)`.
        """
        return joined("actstore.store", "measure")(self)

    def xarray(self, rows: str | Rows, layers: Sequence[int] | None = None) -> Any:
        """Vectors as an array of xarray: dimensions sample, layer, d; all layers if none are said.

        rows: a query, or as for `residual`; one entry along `sample` for each, with the columns of the rows and those
        of the view rows as coordinates, and where it comes from in its attributes.
        """
        known = self.described(rows)
        asked = self.layers if layers is None else [*map(self.header.layer_of, numbers(layers, "layers"))]
        x = self.residual(known, layers=asked)
        said = origin(Path(self.place), self.state, self.run, **({"sql": rows} if isinstance(rows, str) else {}))
        return joined("actstore.store", "xarray")(x, known, asked, said)

    @cached_property
    def torch(self) -> Any:
        """Data sets of torch: `store.torch(query, layer=6, columns=["label"])` in memory, in the number type stored.

        `store.torch.stream(query, layer=6, seed=0)` reads vectors part by part and shuffles them, for what does not
        fit. Items are {"x": (d,), "row_id": (), ...}.
        """
        return joined("actstore.store", "torch")(self)

    def draft(self, number: int) -> Draft:
        """Begin a batch of the plan: a locked folder, to be finished by `write`; ActstoreError as for `write`."""
        return begun(self.path, whole(number, "a batch", least=0), self.mirror)

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
        do not fit, ActstoreError if the disk or URL is full or cannot be written: in each case nothing is committed.
        """
        with draft or self.draft(number) as opened:
            assert opened.number == number, "a draft is of one batch"
            if self.is_committed(number):
                raise AlreadyCommittedError(f"{self}: batch {number} is committed already")
            samples, rows = frame(samples, "samples"), frame(rows, "rows")
            planned = self.plan.filter(pl.col("batch") == number)
            if not planned.height:
                raise PlanError(f"batch {number} is not in the plan of {self}")
            given = {"residual": residual, "keys": keys, "values": values}
            vectors, read = {kind: named(one, kind) for kind, one in given.items()}, named(attention, "attention")
            content = batch.check(self.header, planned, samples, rows, vectors, read, attention_dtype)
            return opened.commit(content, self.header.crc32c, named(by, "by"))

    def save_result(self, measure: str, table: pl.DataFrame, parameters: dict[str, Any], device: str = "cpu") -> Result:
        """Keep a measure's table under results/, named by the call and by what the store held; of a URL, in our cache.

        parameters: what was asked, by names; what JSON can say. device: where it was computed, in words.
        """
        names, table = [commit.name for commit in self.commits], frame(table, "a result")
        return results.save(self.path, measure, table, parameters, self.state, names, text(device, "device"))

    def saved_result(self, measure: str, parameters: dict[str, Any]) -> Result | None:
        """The result of the same call on the same contents, if it was saved."""
        if self.mirror:
            self.mirror.gather()
        return results.saved(self.path, measure, parameters, self.state)

    def results(self) -> Results:
        """Every saved result: a list that a notebook shows as a table, and each of them with its figure."""
        if self.mirror:
            self.mirror.gather()
        return results.load_all(self.path)

    def checked(self, name: str) -> Path:
        """The path of a file that the header lists, after its bytes and its columns were checked."""
        if self.mirror:
            self.mirror.ensure({name: self.header.files[name]})
        return self.header.checked(self.path, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the SQL connection."""
        if "_connection" in self.__dict__:
            self._finalizer()
            del self.__dict__["_connection"]

    def write_index(self) -> Path:
        """Write index.duckdb beside the parts, for any DuckDB client, and the checkpoint of a store of many parts.

        Raises ActstoreError where it cannot be written.
        """
        checkpoint.write(self.path, self.header)
        return index.build(self._tables, self.path / INDEX)

    @property
    def _tables(self) -> Tables:
        return Tables(
            self.path,
            self.state,
            n_parts=len(self.parts),
            n_rows=sum(commit.rows for commit in self.commits),
            rows=lambda: [part.rows_path for part in self.parts],
            samples=lambda: [part.samples_path for part in self.parts],
            plan=lambda: self.checked(PLAN),
            vocabulary=lambda: self.checked(VOCABULARY),
            format=self.header.form,
            own=self.header.rows,
        )

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        saved = self._saved = self.results()
        made = connection.connect(
            self._tables,
            {
                "run": (overview.run(self.header), overview.json_of_run(self.header)),
                "parts": (overview.parts(self.commits), ()),
                "results": (overview.results(saved, self.state), overview.JSON),
            },
            {"vocab": self.checked(VOCABULARY), **{one.name: one.path for one in saved}},
            overview.answers(self.header),
            weakref.WeakMethod(self.residual),
            self.header.d_model,
            self.limits,
        )
        self._finalizer = weakref.finalize(self, connection.close, made, os.getpid())
        return made


def open(path: Path | str, *, limits: Limits | None = None) -> Store:  # noqa: A001  (actstore.open reads as it should)
    """Open a store for reading and writing, at a URL (s3, gs, az) too; at https:// and hf:// for reading.

    Raises NotAStoreError, FormatError or CorruptError; ActstoreError for a URL. Warns of parts without a record.
    limits: what one SQL question or array may take; ten minutes and half of the machine's memory if not given.
    """
    if not isinstance(limits, Limits | None):
        raise ActstoreError(f"limits are actstore.Limits(seconds=..., gigabytes=...), not {limits!r}")
    place = place_of(path, "a store")
    if isinstance(place, Path):
        store = Store(place, limits)
        unrecorded.warn(place)
        return store
    return Store((mirror := mirrored(place)).folder, limits, mirror=mirror)
