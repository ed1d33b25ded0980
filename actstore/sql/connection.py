"""The SQL connection of a store: its views, the function residual(), and nothing of the outside."""

import ctypes
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from actstore import process
from actstore.limits import Limits
from actstore.read.parts import integers
from actstore.sql import index, query, views
from actstore.sql.tables import Tables

# Beyond either SQL answers from an index file in the user's cache folder: each part is a file to be opened, and rows of
# Parquet are decoded anew by each query (to filter 3 million by role and label took 0.1 CPU seconds, 0.03 of an index).
PARTS_READ_DIRECTLY = 500
ROWS_READ_DIRECTLY = 2_000_000

Residual = Callable[[NDArray[np.int64], int], NDArray[np.float32]]


def connect(
    tables: Tables,
    small: Mapping[str, tuple[pl.DataFrame, Collection[str]]],
    files: Mapping[str, Path],
    answers: Sequence[str],
    residual: Callable[[], Residual | None],
    d_model: int,
    limits: Limits,
) -> duckdb.DuckDBPyConnection:
    """A locked connection that knows the tables of a store, small tables and Parquet files as views by their names.

    small: each with those of its columns that are JSON. answers: the names of the answers whose probabilities are kept.
    residual: gives the function that reads vectors (n, d) of row ids at a layer; a weak reference, so that a store can
    be let go of. Raises CorruptError where a table cannot be read, QueryError where the memory allowed does not do for
    that.
    """
    process.connected()
    connection = duckdb.connect(":memory:")
    try:
        readable = [*_attach(connection, tables), *files.values()]
        views.create_views(connection, tables.format)
        views.create_answers(connection, answers)
        for name, (frame, json_columns) in small.items():
            views.copy_table(connection, name, frame, json_columns)
        for name, path in files.items():
            views.create_view(connection, name, path)
        views.lock(connection, readable, _vectors(residual, d_model), d_model, limits)
    except BaseException as error:
        connection.close()
        if isinstance(error, duckdb.OutOfMemoryException):
            raise limits.exhausted() from None
        if isinstance(error, query.RAISED):
            raise query.unreadable(error) from None
        raise
    return connection


def close(made: duckdb.DuckDBPyConnection, owner: int) -> None:
    """Close a connection; that of a fork, which lacks its threads, is kept for ever: its end would be the process's."""
    if os.getpid() == owner:
        made.close()
    else:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))


def _attach(connection: duckdb.DuckDBPyConnection, tables: Tables) -> list[Path]:
    """Make the large tables known to SQL; returns the files it may read."""
    many = tables.n_parts > PARTS_READ_DIRECTLY or tables.n_rows > ROWS_READ_DIRECTLY
    if many and (path := index.cached(tables)):
        views.attach_tables(connection, path)
        return [path]
    return views.create_tables(connection, tables, "view")


def _vectors(residual: Callable[[], Residual | None], d_model: int) -> views.Vectors:
    """residual(row_id, layer) for SQL."""

    def vectors(row_ids: pa.ChunkedArray, layers: pa.ChunkedArray) -> pa.Array:
        read = residual()
        assert read is not None
        ids, wanted = integers(row_ids), integers(layers)
        out = np.empty((len(ids), d_model), np.float32)
        for layer in np.unique(wanted):
            out[wanted == layer] = read(ids[wanted == layer], int(layer))
        flat = pa.Array.from_buffers(pa.float32(), out.size, [None, pa.py_buffer(out)])  # pa.array imports pandas
        return pa.FixedSizeListArray.from_arrays(flat, d_model)

    return vectors
