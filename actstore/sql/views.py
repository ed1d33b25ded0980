"""SQL over a store: a connection that can read the committed tables and nothing else."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from actstore.format.schema import PLAN, Columns, lists_of, rows_of, samples_of
from actstore.limits import Limits
from actstore.sql.tables import Tables
from actstore.storage.links import plain

# One relation for each table of the store; the views users see are made of these.
TABLES = ("stored_rows", "stored_samples", "plan")
VIEWS = """
create view samples as
    select s.*, p.* exclude (batch, sample_id, condition)
    from stored_samples s left join plan p using (sample_id, condition);
create view rows as
    select r.*, s.* exclude (sample_id, condition, {lists})
    from stored_rows r left join samples s using (sample_id, condition);
"""
# Queries run on cursors: what is not set globally does not hold for them.
LOCK = """
set global timezone = 'UTC';
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
FLOATS = re.compile(r"\b(FLOAT|DOUBLE)\b")  # however deep
Vectors = Callable[[pa.ChunkedArray, pa.ChunkedArray], pa.Array]


def literal(text: str) -> str:
    """Text as a SQL string.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def file(path: Path) -> str:
    """A path as a SQL string that stands for this file and no other."""
    return literal(str(plain(path)))


def relation(connection: duckdb.DuckDBPyConnection, paths: Iterable[Path], columns: Columns) -> str:
    """The SQL that reads these Parquet files, or an empty table with the same columns if there are none."""
    if listed := list(paths):
        return parquet(connection, listed)
    fields = (f"null::{_sql_type(kind)} as {name}" for name, kind in columns.items())
    return f"select {', '.join(fields)} limit 0"


def parquet(connection: duckdb.DuckDBPyConnection, paths: Iterable[Path]) -> str:
    """The SQL that reads these Parquet files, all of the same columns; folders called name=value are no columns.

    Statistics of Parquet leave NaN out, and DuckDB takes them for bounds of every value: `score > 0.5` loses NaN, or
    finds it where all others are. They do not get through `try`, which changes nothing else.
    """
    source = f"from read_parquet([{', '.join(map(file, paths))}], hive_partitioning = false)"
    table = connection.sql(source)
    floats = [name for name, kind in zip(table.columns, table.types, strict=True) if FLOATS.search(str(kind))]
    replaced = ", ".join(f"try({name}) as {name}" for name in map(_identifier, floats))
    return f"select *{replaced and f' replace ({replaced})'} {source}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def create_views(connection: duckdb.DuckDBPyConnection, form: int) -> None:
    """Create the views that users see over the tables of a store of this format."""
    connection.execute(VIEWS.format(lists=", ".join(lists_of(form))))


def create_tables(connection: duckdb.DuckDBPyConnection, tables: Tables, kind: str) -> list[Path]:
    """Create the store's tables from Parquet as `kind` = "view" (read when queried) or "table" (copied); returns the
    files."""
    rows, samples, plan = tables.rows(), tables.samples(), tables.plan()
    sources = ((rows, rows_of(tables.format, tables.own)), (samples, samples_of(tables.format)), ([plan], PLAN))
    for name, (paths, columns) in zip(TABLES, sources, strict=True):
        source = relation(connection, paths, columns)
        connection.execute(f"create {kind} {name} as {source}")
    return [*rows, *samples, plan]


def attach_tables(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Take the store's tables from an index file of our own making."""
    connection.execute(f"attach {file(path)} as indexed (read_only)")
    for name in TABLES:
        connection.execute(f"create view {name} as from indexed.{name}")


def copy_table(
    connection: duckdb.DuckDBPyConnection, name: str, frame: pl.DataFrame, json_columns: Collection[str] = ()
) -> None:
    """Copy a small frame into the connection, as JSON: DuckDB's way in for Arrow tables first imports pandas."""
    kinds = json.dumps([{column: _sql_type(kind) for column, kind in frame.schema.items()}])
    rows = f"from_json({literal(frame.write_json())}, {literal(kinds)})"
    typed = ", ".join(f"{_identifier(column)}::json as {_identifier(column)}" for column in json_columns)
    replaced = f"* replace ({typed})" if typed else "*"
    connection.execute(f"create table {name} as select {replaced} from (select unnest({rows}, max_depth := 2))")


def _sql_type(kind: pl.DataType | type[pl.DataType]) -> str:
    if isinstance(kind, pl.List):
        return f"{_sql_type(kind.inner)}[]"  # type: ignore[arg-type]  # its stubs allow another class
    if isinstance(kind, pl.Struct):
        fields = ((one.name, _sql_type(one.dtype)) for one in kind.fields)  # type: ignore[arg-type]  # as above
        return f"STRUCT({', '.join(f'{_identifier(name)} {kind}' for name, kind in fields)})"
    return SQL_TYPES.get(kind.base_type(), "VARCHAR")


def create_answers(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
    """Make the probabilities of a recipe's answers known as the view `answers`: one row each, with its name."""
    connection.execute(
        f"create view answers as select sample_id, condition, unnest([{', '.join(map(literal, names))}]::varchar[]) "
        "as answer, unnest(answer_probabilities) as probability from stored_samples "
        "where answer_probabilities is not null"
    )


def create_view(connection: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    """Make one Parquet file known as a view."""
    connection.execute(f"create view {name} as {parquet(connection, [path])}")


def lock(
    connection: duckdb.DuckDBPyConnection, readable: Iterable[Path], vectors: Vectors, d_model: int, limits: Limits
) -> None:
    """Add residual(row_id, layer), limit memory and take away files, network, extensions and settings."""
    connection.create_function(  # type: ignore[call-overload]  # its stubs know scalar functions only
        "residual", vectors, ["BIGINT", "BIGINT"], f"FLOAT[{d_model}]", type="arrow"
    )
    connection.execute(f"set global memory_limit = '{int(limits.gigabytes * 1e6)}KB'")
    connection.execute("set global temp_directory = ''")  # a reader writes nothing, and fills no disk
    connection.execute(f"set allowed_paths = [{', '.join(map(file, readable))}]")
    connection.execute(LOCK)
