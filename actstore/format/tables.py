"""Parquet tables of a store."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from actstore.errors import ActstoreError, CorruptError
from actstore.format.names import FORMAT
from actstore.format.schema import Columns, check_own_columns
from actstore.limits import check_memory

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


UNHELD = (pl.Object, pl.Int128, pl.UInt128)  # Arrow has no such type; of an object it would get the address


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame as Parquet with page checksums; ActstoreError for a type that Parquet does not have."""
    write_arrow(path, arrow_of(frame))


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write an Arrow table so; opened here: Arrow itself takes `~` for a folder and `file:` for an address."""
    with path.open("wb") as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def arrow_of(frame: pl.DataFrame) -> pa.Table:
    """A frame for Parquet; ActstoreError for a column of a type that no table holds."""
    for name, kind in frame.schema.items():
        if any(one in UNHELD for one in _kinds(kind)):
            raise ActstoreError(f"no table holds column '{name}' of type {kind}: cast it, to pl.Int64 or pl.String")
    return frame.to_arrow()


def _kinds(kind: pl.DataType) -> Iterator[pl.DataType]:
    """A type and all inside it."""
    yield kind
    inside = [field.dtype for field in getattr(kind, "fields", ())] + [getattr(kind, "inner", None)]
    for one in inside:
        if isinstance(one, pl.DataType):
            yield from _kinds(one)


def read_table(path: Path, height: int | None = None) -> pl.DataFrame:
    """Read a Parquet table, of `height` rows if given, its page checksums checked.

    Raises CorruptError if it is none or has another height, ActstoreError if its content does not fit into memory.
    """
    try:
        # opened here, as in write_arrow; pq.read_table first imports pandas
        with path.open("rb") as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
            if height not in (None, file.metadata.num_rows):
                raise CorruptError(f"{path}: {file.metadata.num_rows} rows, {height} were committed")
            table = pa.Table.from_batches(_pieces(file, path), file.schema_arrow)
        frame = pl.from_arrow(table.replace_schema_metadata())  # polars panics over metadata that are no text
    except MEANINGLESS as error:
        raise CorruptError(f"{path}: cannot be read ({error}); run actstore verify") from None
    assert isinstance(frame, pl.DataFrame)
    if height not in (None, frame.height):  # a footer can contradict itself
        raise CorruptError(f"{path}: {frame.height} rows, {height} were committed")
    return frame


def check_columns(path: Path, columns: Columns, *, own: bool = False, form: int = FORMAT) -> None:
    """Raise CorruptError unless the columns of a Parquet table are these, and with `own` others after them, in a store
    of this format."""
    try:
        with path.open("rb") as file:
            schema = pq.read_schema(file).remove_metadata()
        found = pl.from_arrow(pa.Table.from_batches([], schema))  # schema.empty_table() imports pandas
        assert isinstance(found, pl.DataFrame)
        if own:
            check_own_columns(found.columns[len(columns) :], form)
    except (*MEANINGLESS, ActstoreError) as error:
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
