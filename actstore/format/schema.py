"""The tables of a store: their columns, and how a frame is brought into their form."""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

import polars as pl
import pyarrow as pa

from actstore.errors import ActstoreError, nearest
from actstore.format.names import COLUMN_NAME, FORMAT, PICTURED

Columns = dict[str, type[pl.DataType] | pl.DataType]

ROWS: Columns = {
    "row_id": pl.Int64,
    "sample_id": pl.String,
    "condition": pl.String,
    "role": pl.String,
    "k": pl.Int32,
    "position": pl.Int32,
    "token_id": pl.Int32,
    "modality": pl.String,
    "place": pl.Int32,
}
SAMPLES: Columns = {
    "sample_id": pl.String,
    "condition": pl.String,
    "status": pl.String,
    "error": pl.String,
    "length": pl.Int32,
    "image_start": pl.Int32,
    "image_end": pl.Int32,
    "grid_rows": pl.Int32,
    "grid_columns": pl.Int32,
    "boi": pl.Int32,
    "eoi": pl.Int32,
    "next_token_id": pl.Int32,
    "next_token": pl.String,
    "next_token_probability": pl.Float32,
    "top_tokens": pl.List(pl.String),
    "top_probabilities": pl.List(pl.Float32),
    "answer_probabilities": pl.List(pl.Float32),
    "source_similarity": pl.Float32,
    "generated_text": pl.String,
}
# What tables of format 2 have besides: which picture a row is of, and where each picture of a sample is.
_PICTURE = dict.fromkeys(("image_start", "image_end", "grid_rows", "grid_columns", "boi", "eoi"), pl.Int32)
PICTURE: Columns = {"picture": pl.Int32}
PICTURES: Columns = {"pictures": pl.List(pl.Struct(_PICTURE))}
PLAN: Columns = {"batch": pl.Int32, "sample_id": pl.String, "condition": pl.String}
VOCABULARY: Columns = {"token_id": pl.Int32, "token": pl.String}

# Types that columns of a user's own have in rows, by their names in the header.
OWN_TYPES: Columns = {"boolean": pl.Boolean, "float64": pl.Float64, "int64": pl.Int64, "string": pl.String}
NOTHING: Mapping[str, str] = MappingProxyType({})

STATUSES = ("ok", "failed")
MODALITIES = ("text", "image", "special")  # of a row's token; NULL where it is not said
KEY = ("sample_id", "condition")
LISTS = tuple(name for name, kind in SAMPLES.items() if isinstance(kind, pl.List))  # not repeated beside every row


def rows_of(form: int, own: Mapping[str, str] = NOTHING) -> Columns:
    """The columns of rows.parquet in a store of this format, with `own` ones of these types after them."""
    return (ROWS | PICTURE if form == PICTURED else ROWS) | {name: OWN_TYPES[kind] for name, kind in own.items()}


def samples_of(form: int) -> Columns:
    """Those of samples.parquet."""
    return SAMPLES | PICTURES if form == PICTURED else SAMPLES


def lists_of(form: int) -> tuple[str, ...]:
    """Those of samples that are not repeated beside every row."""
    return (*LISTS, *PICTURES) if form == PICTURED else LISTS


def conform(frame: pl.DataFrame, columns: Columns, table: str) -> pl.DataFrame:
    """`frame` with exactly `columns` in their order and types; absent ones become NULL, unknown ones are refused."""
    unknown = [name for name in frame.columns if name not in columns]
    if unknown:
        hint = nearest(unknown[0], list(columns), "a sample's own columns go into the plan")
        raise ActstoreError(f"{table} has no column '{unknown[0]}'{hint}")
    absent = [pl.lit(None, dtype=kind).alias(name) for name, kind in columns.items() if name not in frame.columns]
    try:
        return frame.with_columns(absent).select(pl.col(name).cast(kind) for name, kind in columns.items())
    except pl.exceptions.PolarsError as error:
        raise ActstoreError(f"{table}: {error}") from None


def check_modalities(column: pl.Series, what: str) -> None:
    """Raise ActstoreError for a modality that no query asks for, since it would be left out of every measure."""
    if len(odd := column.drop_nulls().filter(~column.drop_nulls().is_in(MODALITIES))):
        raise ActstoreError(
            f"{what}: modality {odd[0]!r} is not one of {', '.join(MODALITIES)}; leave out what is none"
        )


def check_own_columns(
    names: Iterable[str], form: int = FORMAT, others: Collection[str] = (), table: str = "the plan"
) -> None:
    """Raise ActstoreError for a user's own column that is no lower-case identifier, that a store of this format uses
    itself, or that is one of `others`, those of the user's other table."""
    taken = {*rows_of(form), *samples_of(form), "batch"}
    for name in names:
        if not isinstance(name, str) or not COLUMN_NAME.fullmatch(name):
            raise ActstoreError(f"column '{name}' of {table}: use lower-case letters, digits and underscores")
        if name in taken:
            raise ActstoreError(f"column '{name}' of {table}: the store uses this name itself; rename yours")
        if name in others:
            raise ActstoreError(f"column '{name}' of {table}: rows have one of this name, too; rename yours")


def arrow(columns: Columns) -> pa.Schema:
    """The Arrow schema of a table with these columns."""
    return pl.DataFrame(schema=columns).to_arrow().schema
