"""A user's own tables beside the views of a store: frames, for one query."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import duckdb
import polars as pl

from actstore.errors import ActstoreError, QueryError
from actstore.format.given import short
from actstore.format.names import COLUMN_NAME

__all__ = ["Parameters", "begun", "frame", "plain", "rows_of"]

Parameters = Mapping[str, object] | Sequence[object]
Frames = Mapping[str, Any]
KNOWN = "select table_name from information_schema.tables"


def begun(connection: duckdb.DuckDBPyConnection, tables: Frames | None) -> duckdb.DuckDBPyConnection:
    """A cursor that knows `tables` by their names; no other cursor does.

    tables: polars, pandas or Arrow, or whatever else has Arrow's stream. Raises QueryError for a name that is none of
    SQL or is taken, and for what is no table.
    """
    if not isinstance(tables, Mapping | None):
        raise QueryError(f"tables have names: tables={{'mine': frame}}, not {short(tables)}")
    cursor = connection.cursor()
    taken = {str(name) for (name,) in cursor.sql(KNOWN).fetchall()} if tables else set()
    for name, table in (tables or {}).items():
        if not isinstance(name, str) or not COLUMN_NAME.fullmatch(name):
            raise QueryError(f"table '{name}': use lower-case letters, digits and underscores")
        if name in taken:
            raise QueryError(f"table '{name}': the store has a view of this name; take another")
        cursor.register(name, frame(table, f"table '{name}'").to_arrow())
    return cursor


def plain(parameters: Parameters | None) -> Parameters | None:
    """Values with those of numpy and torch as Python's own, which DuckDB takes; QueryError for one that is no list."""

    def of(value: Any) -> object:
        return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value

    if isinstance(parameters, Mapping):
        return {str(name): of(value) for name, value in parameters.items()}
    odd = isinstance(parameters, str | bytes | Set | Iterator) or hasattr(parameters, "columns")
    if parameters is not None and (odd or getattr(parameters, "ndim", 1) != 1 or not hasattr(parameters, "__iter__")):
        raise QueryError(f"parameters are a list of values for ?, or {{'x': value}} for $x, not {short(parameters)}")
    return None if parameters is None else [of(value) for value in parameters]


def frame(table: object, what: str) -> pl.DataFrame:
    """A table of polars, pandas or Arrow as one of polars; an index of pandas becomes columns if it has a name."""
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    if not hasattr(table, "__arrow_c_stream__"):
        raise QueryError(f"{what}: a table of polars, pandas or Arrow is wanted, not {type(table).__name__}")
    try:
        if any(name is not None for name in getattr(getattr(table, "index", None), "names", ())):
            table = table.reset_index()  # type: ignore[attr-defined]  # pandas
        found = pl.DataFrame(table)
    except Exception as error:
        raise ActstoreError(f"{what}: {str(error).partition(chr(10))[0]}") from None
    if any(not isinstance(name, str) for name in getattr(table, "column_names", getattr(table, "columns", []))):
        raise QueryError(f"{what}: its columns have names that are no text; rename them")
    return found


def rows_of(rows: Any) -> Any:
    """Rows as a table of polars where they are one of any kind; row ids as they are."""
    return frame(rows, "rows") if isinstance(rows, pl.LazyFrame) or hasattr(rows, "columns") else rows
