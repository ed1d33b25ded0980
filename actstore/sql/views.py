"""SQL over a store: a connection that can read the committed tables and nothing else."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from actstore.errors import ActstoreError, CorruptError, QueryError, nearest
from actstore.format.schema import LISTS, PLAN, ROWS, SAMPLES, Columns
from actstore.limits import Limits

# One relation for each table of the store; the views users see are made of these.
TABLES = ("stored_rows", "stored_samples", "plan")

VIEWS = f"""
create view samples as
    select s.*, p.* exclude (batch, sample_id, condition)
    from stored_samples s left join plan p using (sample_id, condition);
create view rows as
    select r.*, s.* exclude (sample_id, condition, {", ".join(LISTS)})
    from stored_rows r left join samples s using (sample_id, condition);
"""

# Queries run on cursors: what is not set globally does not hold for them.
LOCK = """
set global python_enable_replacements = false;
set global autoinstall_known_extensions = false;
set global autoload_known_extensions = false;
set global allow_community_extensions = false;
set global enable_external_access = false;
set global lock_configuration = true;
"""

SQL_TYPES: dict[object, str] = {
    pl.Boolean: "BOOLEAN",
    pl.Float32: "FLOAT",
    pl.Float64: "DOUBLE",
    pl.Int32: "INTEGER",
    pl.Int64: "BIGINT",
}

Vectors = Callable[[pa.ChunkedArray, pa.ChunkedArray], pa.Array]


def literal(text: str | Path) -> str:
    """Text as a SQL string.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + str(text).replace("'", "''") + "'"


def relation(paths: Iterable[Path], columns: Columns) -> str:
    """The SQL that reads these Parquet files, or an empty table with the same columns if there are none."""
    if listed := list(paths):
        return _parquet(listed)
    fields = (f"null::{_sql_type(kind)} as {name}" for name, kind in columns.items())
    return f"select {', '.join(fields)} limit 0"


def _parquet(paths: list[Path]) -> str:
    return f"select * from read_parquet([{', '.join(map(literal, paths))}], hive_partitioning = false)"


def create_tables(
    connection: duckdb.DuckDBPyConnection, rows: Iterable[Path], samples: Iterable[Path], plan: Path, kind: str
) -> None:
    """Create the store's tables from Parquet as `kind` = "view" (read when queried) or "table" (copied)."""
    sources = (relation(rows, ROWS), relation(samples, SAMPLES), relation([plan], PLAN))
    for name, source in zip(TABLES, sources, strict=True):
        connection.execute(f"create {kind} {name} as {source}")


def attach_tables(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Take the store's tables from an index file of our own making."""
    connection.execute(f"attach {literal(path)} as indexed (read_only)")
    for name in TABLES:
        connection.execute(f"create view {name} as from indexed.{name}")


def copy_table(connection: duckdb.DuckDBPyConnection, name: str, frame: pl.DataFrame) -> None:
    """Copy a small frame into the connection, as JSON: DuckDB's way in for Arrow tables first imports pandas."""
    kinds = json.dumps([{column: _sql_type(kind) for column, kind in frame.schema.items()}])
    rows = f"from_json({literal(frame.write_json())}, {literal(kinds)})"
    connection.execute(f"create table {name} as select unnest({rows}, max_depth := 2)")


def _sql_type(kind: pl.DataType | type[pl.DataType]) -> str:
    if isinstance(kind, pl.List):
        return f"{_sql_type(kind.inner)}[]"  # type: ignore[arg-type]  # its stubs allow another class
    return SQL_TYPES.get(kind.base_type(), "VARCHAR")


def create_view(connection: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    """Make one Parquet file known as a view."""
    connection.execute(f"create view {name} as {_parquet([path])}")


def lock(
    connection: duckdb.DuckDBPyConnection, readable: Iterable[Path], vectors: Vectors, d_model: int, limits: Limits
) -> None:
    """Add residual(row_id, layer), limit memory and take away files, network, extensions and settings."""
    connection.create_function(  # type: ignore[call-overload]  # its stubs know scalar functions only
        "residual", vectors, ["BIGINT", "BIGINT"], f"FLOAT[{d_model}]", type="arrow"
    )
    connection.execute(f"set global memory_limit = '{int(limits.gigabytes * 1e6)}KB'")
    connection.execute("set global temp_directory = ''")  # a reader writes nothing, and fills no disk
    connection.execute(f"set allowed_paths = [{', '.join(literal(path) for path in readable)}]")
    connection.execute(LOCK)


ROWS_AT_A_TIME = 16_384
HUGE = pl.Decimal(38, 0)
COLUMNS = "select distinct column_name from duckdb_columns() where not internal and table_name in "
NAMED = "select table_name from information_schema.tables"
NO_COLUMN = re.compile(r'Referenced column "([^"]+)" not found|does not have a column named "([^"]+)"')
PYTHON_ERROR = re.compile(r"^.*while executing the UDF: \w+: ", re.DOTALL)
NO_TABLE = re.compile(r"Table with name (\S+) does not exist")
FORBIDDEN = re.compile(r"disabled by configuration|configuration has been locked|disabled through configuration")
NO_MEMORY = re.compile(r"^Out of Memory Error")
# What DuckDB, its bindings and Arrow raise over a table whose bytes mean nothing.
RAISED = (duckdb.Error, pa.ArrowException, OSError, RuntimeError, ValueError)
MISTAKES = (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, duckdb.InterruptException)


def select(connection: duckdb.DuckDBPyConnection, query: str, limits: Limits) -> pl.DataFrame:
    """Run one SELECT; raises QueryError for anything else, for SQL that DuckDB refuses and beyond the limits.

    Raises CorruptError where a table cannot be read.
    """
    try:
        statements = duckdb.extract_statements(query)
        kinds = [statement.type for statement in statements]
        if kinds != [duckdb.StatementType.SELECT]:
            found = ", ".join(str(kind).removeprefix("StatementType.") for kind in kinds) or "nothing"
            raise QueryError(f"one SELECT (or FROM ...) is run at a time, and nothing that writes; found {found}")
        frame = _fetch(connection.cursor(), query, limits)
    except (duckdb.OutOfMemoryException, MemoryError):
        raise limits.exhausted() from None
    except pl.exceptions.PolarsError as error:
        raise QueryError(f"the result has a type that no table here holds; cast it in the query ({error})") from None
    except RAISED as error:
        raise _failure(connection, error, query, limits) from None
    return frame.with_columns(_narrowed(frame[name]) for name, kind in frame.schema.items() if kind == HUGE)


def _fetch(cursor: duckdb.DuckDBPyConnection, query: str, limits: Limits) -> pl.DataFrame:
    """The result of a query, some rows at a time: DuckDB's own limit does not count what it has given away."""
    with limits.watch(cursor):
        relation = cursor.sql(query)
        read = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch  # before DuckDB 1.5
        reader: pa.RecordBatchReader = read(ROWS_AT_A_TIME)
        found, n_bytes = [], 0
        for rows in reader:
            found.append(rows)
            n_bytes += rows.nbytes
            limits.check_result(n_bytes)
    frame = pl.from_arrow(pa.Table.from_batches(found, reader.schema))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _narrowed(sums: pl.Series) -> pl.Series:
    """DuckDB's sum of integers has 128 bits and comes as decimals; nearly always it is an ordinary integer."""
    narrow = sums.cast(pl.Int64, strict=False)
    return narrow if narrow.null_count() == sums.null_count() else sums


def _failure(connection: duckdb.DuckDBPyConnection, error: Exception, query: str, limits: Limits) -> ActstoreError:
    """A mistake in the query, too little memory, or a table that cannot be read."""
    if NO_MEMORY.search(str(error)):  # as Arrow passes on what DuckDB says
        return limits.exhausted()
    if isinstance(error, MISTAKES) or FORBIDDEN.search(str(error)):
        return QueryError(_explain(connection, PYTHON_ERROR.sub("", str(error)), query))
    return unreadable(error)


def unreadable(error: Exception) -> CorruptError:
    """What is said where DuckDB cannot make sense of a table: one line."""
    line = str(error).strip().partition("\n")[0]
    return CorruptError(f"SQL cannot read a table of this store ({line}); run actstore verify")


def _explain(connection: duckdb.DuckDBPyConnection, message: str, query: str) -> str:
    """DuckDB's message, with the nearest column of the query's views, or the nearest view, named."""
    if missing := NO_COLUMN.search(message):
        name = missing[1] or missing[2]
        return f"no column '{name}'{nearest(name, _columns(connection, query))}\n{message}"
    if missing := NO_TABLE.search(message):
        views = [name for name in _names(connection, NAMED) if not name.startswith("stored_")]
        return f"no view '{missing[1]}'{nearest(missing[1], views)}; there are {', '.join(views)}"
    if FORBIDDEN.search(message):
        return f"SQL on a store reads its views; it has no files, network, extensions or settings\n{message}"
    return message


def _columns(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """The columns of the views whose names are among the words of a query."""
    words = ", ".join(map(literal, re.findall(r"\w+", query.lower())))
    return _names(connection, f"{COLUMNS} ({words})")


def _names(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    return sorted(str(name) for (name,) in connection.cursor().sql(query).fetchall())
