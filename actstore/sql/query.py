"""One SELECT on a locked connection: its result, or what was wrong with it."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from actstore.errors import AGAIN, ActstoreError, CorruptError, QueryError, refused
from actstore.format.tables import check_times, inside
from actstore.limits import Limits
from actstore.sql.mistakes import FORBIDDEN, explained
from actstore.sql.own import Parameters, begun, plain

ROWS_AT_A_TIME = 16_384
HUGE = pl.Decimal(38, 0)
# Arrow gets other numbers than DuckDB has, or polars has no such type.
UNHELD = re.compile(r"\b(UHUGEINT|BIGNUM|BIT|INTERVAL|UNION|VARIANT)\b")
NUMBERS = ("UHUGEINT", "BIGNUM", "BIT")
HALF = re.compile("[\ud800-\udfff]")  # halves of characters, as which Python has such bytes
FILE = re.compile(r'file "([^"]+)"')
NO_MEMORY = re.compile(r"^Out of Memory Error")
# What DuckDB, its bindings and Arrow raise over a table whose bytes mean nothing.
RAISED = (duckdb.Error, pa.ArrowException, OSError, RuntimeError, ValueError)
MISTAKES = (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, duckdb.InterruptException)


def select(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    limits: Limits,
    parameters: Parameters | None = None,
    tables: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Run one SELECT; raises QueryError for anything else, for SQL that DuckDB refuses and beyond the limits.

    parameters: what stands for `?` or `$name` in it. tables: a user's own, known to this query alone.
    Raises CorruptError where a table cannot be read.
    """
    query = text_of(query)
    with _failures(connection, query, limits):
        statements = connection.extract_statements(query)  # the module's has a connection, at whose end a fork crashes
        kinds = [statement.type for statement in statements]
        if kinds != [duckdb.StatementType.SELECT]:
            found = ", ".join(str(kind).removeprefix("StatementType.") for kind in kinds) or "nothing"
            raise QueryError(f"one SELECT (or FROM ...) is run at a time, and nothing that writes; found {found}")
        frame = _fetch(begun(connection, tables), query, limits, parameters)
    return frame.with_columns(_narrowed(frame[name]) for name, kind in frame.schema.items() if kind == HUGE)


def text_of(query: object) -> str:
    """A query, which is text; QueryError for anything else."""
    if not isinstance(query, str):
        raise QueryError(f"a query is text, not {type(query).__name__}; for example: from rows where role = 'eoi'")
    if HALF.search(query):
        raise QueryError(f"the query holds bytes that are no text in UTF-8: {ascii(query)[:60]}")
    if not query.strip():
        raise QueryError("the query is empty; for example: from rows where role = 'eoi'")
    return query


@contextmanager
def _failures(connection: duckdb.DuckDBPyConnection, query: str, limits: Limits) -> Iterator[None]:
    """What is raised for a query that cannot be run, in our words."""
    try:
        yield
    except (duckdb.OutOfMemoryException, MemoryError):
        raise limits.exhausted() from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise QueryError(f"the result has a type that no table here holds; cast it in the query ({error})") from None
    except RAISED as error:
        raise _failure(connection, error, query, limits) from None


def json_columns(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    limits: Limits,
    parameters: Parameters | None = None,
    tables: Mapping[str, Any] | None = None,
) -> list[str]:
    """The columns of a query that are of DuckDB's type JSON, and come as text; of one that `select` has run."""
    with _failures(connection, text_of(query), limits):
        relation = begun(connection, tables).sql(query, params=plain(parameters))
    return [name for name, kind in zip(relation.columns, relation.types, strict=True) if str(kind) == "JSON"]


def _fetch(
    cursor: duckdb.DuckDBPyConnection, query: str, limits: Limits, parameters: Parameters | None
) -> pl.DataFrame:
    """The result of a query, some rows at a time: DuckDB's own limit does not count what it has given away."""
    with limits.watch(cursor):
        relation = cursor.sql(query, params=plain(parameters))
        for name, kind in zip(relation.columns, map(str, relation.types), strict=True):
            if held := UNHELD.search(kind):
                to = "x::hugeint or x::varchar" if held[0] in NUMBERS else "x::varchar"
                raise QueryError(f"no table here holds the {held[0]} of column '{name}'; cast it: {to}")
        if twice := [name for name, count in Counter(relation.columns).items() if count > 1]:
            raise QueryError(f"two columns are called '{twice[0]}'; give each a name of its own: x as y")
        reader = relation.to_arrow_reader(ROWS_AT_A_TIME)
        found, n_bytes = [], 0
        for rows in reader:
            _check_digits(rows)
            try:
                check_times(rows)
            except ActstoreError as error:
                raise QueryError(str(error)) from None
            found.append(rows)
            n_bytes += rows.nbytes
            limits.check_result(n_bytes)
    frame = pl.from_arrow(pa.Table.from_batches(found, reader.schema))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _check_digits(rows: pa.RecordBatch) -> None:
    """QueryError for an integer of 39 digits, however deep: DuckDB's hugeint has them, the decimals it becomes not."""
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if "decimal128(38, 0)" in str(column.type):
            try:
                column.validate(full=True)
                if any(map(_has_lowest, inside(column))):
                    raise pa.ArrowInvalid("-2^127")
            except pa.ArrowInvalid:
                raise QueryError(
                    f"column '{name}' has integers of more than 38 digits, which no table here holds; cast it: "
                    "x::varchar"
                ) from None


def _has_lowest(column: pa.Array) -> bool:
    """Whether decimals hold -2^127, which has 39 digits and no absolute value, so that Arrow lets it pass."""
    if not pa.types.is_decimal128(column.type):
        return False
    words = np.frombuffer(column.buffers()[1], np.int64)[2 * column.offset :][: 2 * len(column)].reshape(-1, 2)
    return bool(((words[:, 0] == 0) & (words[:, 1] == np.iinfo(np.int64).min)).any())


def _narrowed(sums: pl.Series) -> pl.Series:
    """DuckDB's sum of integers has 128 bits and comes as decimals; nearly always it is an ordinary integer."""
    narrow = sums.cast(pl.Int64, strict=False)
    return narrow if narrow.null_count() == sums.null_count() else sums


def _failure(connection: duckdb.DuckDBPyConnection, error: Exception, query: str, limits: Limits) -> Exception:
    """A mistake in the query, too little memory, or a table that cannot be read."""
    if NO_MEMORY.search(str(error)):  # as Arrow passes on what DuckDB says
        return limits.exhausted()
    if isinstance(error, MISTAKES) or FORBIDDEN.search(str(error)):
        return QueryError(explained(connection, str(error), query))
    return unreadable(error)


def unreadable(error: Exception) -> CorruptError | OSError:
    """What is said where DuckDB cannot make sense of a table, in one line; what the system said where it refused."""
    line = str(error).strip().partition("\n")[0]
    if refused(error):
        return error  # type: ignore[return-value]
    for code in AGAIN:
        if line.endswith(said := os.strerror(code)):
            named = FILE.search(line)
            return OSError(code, said, named and named[1])
    return CorruptError(f"SQL cannot read a table of this store ({line}); run actstore verify")
