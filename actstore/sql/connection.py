"""The SQL connection of a store: its views, the function residual(), and nothing of the outside."""

import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actstore.format.names import PLAN
from actstore.sql import index, overview, views

if TYPE_CHECKING:
    from actstore.store import Store

# Beyond either SQL answers from an index file in the user's cache folder: each part is a file to be opened, and rows of
# Parquet are decoded anew by each query (to filter 3 million by role and label took 0.1 CPU seconds, 0.03 of an index).
PARTS_READ_DIRECTLY = 500
ROWS_READ_DIRECTLY = 2_000_000


def connect(store: "Store") -> duckdb.DuckDBPyConnection:
    """A locked connection that knows the tables of `store` and keeps no hold of it.

    Raises CorruptError where a table cannot be read, QueryError where the memory allowed does not do for that.
    """
    connection = duckdb.connect(":memory:")
    try:
        _prepare(connection, store)
    except BaseException as error:
        connection.close()
        if isinstance(error, duckdb.OutOfMemoryException):
            raise store.limits.exhausted() from None
        if isinstance(error, views.RAISED):
            raise views.unreadable(error) from None
        raise
    return connection


def _prepare(connection: duckdb.DuckDBPyConnection, store: "Store") -> None:
    readable = _attach(connection, store)
    connection.execute(views.VIEWS)
    for name, frame in overview.tables(store).items():
        views.copy_table(connection, name, frame)
    for name, path in overview.files(store).items():
        views.create_view(connection, name, path)
        readable.append(path)
    views.lock(connection, readable, _reader(weakref.ref(store)), store.header.d_model, store.limits)


def _attach(connection: duckdb.DuckDBPyConnection, store: "Store") -> list[Path]:
    """Make the large tables known to SQL; returns the files it may read."""
    many = len(store.parts) > PARTS_READ_DIRECTLY or sum(one.rows for one in store.commits) > ROWS_READ_DIRECTLY
    if many and (path := index.cached(store)):
        views.attach_tables(connection, path)
        return [path]
    rows, samples = [part.rows_path for part in store.parts], [part.samples_path for part in store.parts]
    plan = store.checked(PLAN)
    views.create_tables(connection, rows, samples, plan, "view")
    return [*rows, *samples, plan]


def _reader(reference: "weakref.ref[Store]") -> views.Vectors:
    """residual(row_id, layer) for SQL; a weak reference, so that a store can be let go of."""

    def vectors(row_ids: pa.ChunkedArray, layers: pa.ChunkedArray) -> pa.Array:
        store = reference()
        assert store is not None
        ids, wanted = _integers(row_ids), _integers(layers)
        out = np.empty((len(ids), store.header.d_model), np.float32)
        for layer in np.unique(wanted):
            out[wanted == layer] = store.residual(ids[wanted == layer], int(layer))
        flat = pa.Array.from_buffers(pa.float32(), out.size, [None, pa.py_buffer(out)])  # pa.array imports pandas
        return pa.FixedSizeListArray.from_arrays(flat, store.header.d_model)

    return vectors


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """As numpy; pyarrow's own to_numpy first imports pandas."""
    return np.concatenate([np.empty(0, np.int64), *map(np.from_dlpack, column.chunks)])
