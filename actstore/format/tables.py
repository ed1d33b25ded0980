"""Parquet tables of a store."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from actstore import process
from actstore.errors import ActstoreError, CorruptError, refused
from actstore.format.names import FORMAT
from actstore.format.schema import Columns, check_own_columns
from actstore.limits import check_memory
from actstore.storage import local

PIECE_BYTES = 2**28  # what one piece of a table may stand for, unless its values are very long
LEAST_ROWS, MOST_ROWS = 256, 2**18
MEANINGLESS = (
    OSError,
    ValueError,
    TypeError,
    NotImplementedError,
    MemoryError,
    pa.ArrowException,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
)
TIMES = re.compile(r"date32|timestamp")
FIRST_DAY, LAST_DAY = -719_162, 2_932_896  # the years 1 to 9999, in days since 1970
UNHELD = (pl.Object, pl.Int128, pl.UInt128)  # Arrow has no such type; of an object it would get the address


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame as Parquet with page checksums; ActstoreError for a type that Parquet does not have."""
    write_arrow(path, arrow_of(frame))


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write an Arrow table so; opened here: Arrow itself takes `~` for a folder and `file:` for an address."""
    with path.open("wb") as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def arrow_of(frame: pl.DataFrame) -> pa.Table:
    """A frame for Parquet; ActstoreError for a column of a type that no table holds, or of dates that none shows."""
    for name, kind in frame.schema.items():
        if any(one in UNHELD for one in kinds(kind)):
            raise ActstoreError(f"no table holds column '{name}' of type {kind}: cast it, to pl.Int64 or pl.String")
    table = frame.to_arrow()
    check_times(table)
    return table


def check_times(rows: pa.Table | pa.RecordBatch) -> None:
    """Raise ActstoreError for a date, however deep, that Python does not have: before year 1, after 9999, infinite."""
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if not TIMES.search(str(column.type)):
            continue
        import pyarrow.compute as pc  # takes longer to import than a query runs

        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            for part in inside(chunk):
                if (per_day := _per_day(part.type)) is None:
                    continue
                days = pc.min_max(part.view(pa.int32() if per_day == 1 else pa.int64()))
                least, most = days["min"].as_py(), days["max"].as_py()
                if least is not None and not (FIRST_DAY * per_day <= least and most < (LAST_DAY + 1) * per_day):
                    raise ActstoreError(
                        f"column '{name}' has a date before the year 1, after 9999 or infinite, which no table here "
                        "holds; cast it: x::varchar"
                    )


def _per_day(kind: pa.DataType) -> int | None:
    """Units of a type of dates in a day; None for another type, and for nanoseconds, which end in 2262."""
    if pa.types.is_date32(kind):
        return 1
    units = {"s": 1, "ms": 1000, "us": 1_000_000}
    return 86_400 * units[kind.unit] if pa.types.is_timestamp(kind) and kind.unit in units else None


def inside(column: pa.Array) -> Iterator[pa.Array]:
    """A column and all arrays that it is made of."""
    yield column
    if pa.types.is_map(column.type):
        children = [column.keys, column.items]
    elif pa.types.is_struct(column.type):
        children = column.flatten()
    else:
        children = [column.flatten()] if pa.types.is_nested(column.type) else []
    for child in children:
        yield from inside(child)


def kinds(kind: pl.DataType) -> Iterator[pl.DataType]:
    """A type and all inside it."""
    yield kind
    inside = [field.dtype for field in getattr(kind, "fields", ())] + [getattr(kind, "inner", None)]
    for one in inside:
        if isinstance(one, pl.DataType):
            yield from kinds(one)


def read_table(path: Path, height: int | None = None) -> pl.DataFrame:
    """Read a Parquet table, of `height` rows if given, its page checksums checked.

    Raises CorruptError if it is none or has another height, ActstoreError if its content does not fit into memory.
    """
    process.check_forked()
    table = read_arrow(path, height)
    with _meaning(path):
        frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def read_arrow(path: Path, height: int | None = None) -> pa.Table:
    """The same as an Arrow table without metadata, over which polars panics where they are no text."""
    # opened here, as in write_arrow; pq.read_table first imports pandas
    with _meaning(path), local.plain(path) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
        if height not in (None, file.metadata.num_rows):
            raise CorruptError(f"{path}: {file.metadata.num_rows} rows, {height} were committed")
        table = pa.Table.from_batches(_pieces(file, path), file.schema_arrow)
    if height not in (None, table.num_rows):  # a footer can contradict itself
        raise CorruptError(f"{path}: {table.num_rows} rows, {height} were committed")
    return table.replace_schema_metadata()


@contextmanager
def _meaning(path: Path) -> Iterator[None]:
    """Inside, what libraries raise over bytes that mean nothing is a CorruptError."""
    try:
        yield
    except MEANINGLESS as error:
        if refused(error):
            raise
        raise CorruptError(f"{path}: cannot be read ({error}); run actstore verify") from None


def kinds_of(schema: pa.Schema) -> dict[str, pl.DataType]:
    """The columns of an Arrow schema as polars has them, one by one: a fork lacks the threads for several at once."""
    return {field.name: pl.Series(pl.from_arrow(pa.chunked_array([], field.type))).dtype for field in schema}


def check_columns(
    path: Path, columns: Columns, *, own: bool = False, form: int = FORMAT, others: Collection[str] = ()
) -> None:
    """Raise CorruptError unless the columns of a Parquet table are these, and with `own` others after them, in a store
    of this format; `others` are names that those have not."""
    try:
        with local.plain(path) as file:
            schema = pq.read_schema(file).remove_metadata()
        found = pl.from_arrow(pa.Table.from_batches([], schema))  # schema.empty_table() imports pandas
        assert isinstance(found, pl.DataFrame)
        if own:
            check_own_columns(found.columns[len(columns) :], form, others)
    except (*MEANINGLESS, ActstoreError) as error:
        if refused(error):
            raise
        raise CorruptError(f"{path}: its columns are not those of format 1 ({error})") from None
    known = found[:, : len(columns)] if own else found
    if list(known.schema.items()) != list(columns.items()):
        raise CorruptError(f"{path}: its columns are not those of format 1, but {', '.join(found.columns)}")


def _pieces(file: pq.ParquetFile, path: Path) -> Iterator[pa.RecordBatch]:
    """The table, some rows at a time: a few bytes of Parquet can stand for any number of equal strings."""
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    widest = max((group.total_byte_size for group in groups), default=1)  # no value has more bytes
    rows = min(MOST_ROWS, max(LEAST_ROWS, PIECE_BYTES // max(1, widest)))
    n_bytes = 0
    for piece in file.iter_batches(rows):
        n_bytes += piece.nbytes
        check_memory(
            2 * n_bytes, f"{path}: its content", "nothing that actstore wrote is so large; look where it is from"
        )
        yield piece
