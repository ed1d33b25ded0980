"""Exports: rows with their vectors in formats that other tools read."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from actstore.errors import ActstoreError
from actstore.format import HEADER
from actstore.store import Store
from actstore.tables import write_table

ROWS_AT_A_TIME = 16_384
READABLE = 0o644


def export(store: Store, query: str, layers: Sequence[int], output: Path) -> list[Path]:
    """Write the rows of a query with their vectors at `layers`; the suffix of `output` says how.

    .parquet: one table, a column layer_L of float lists for each layer. .npy: an array (n, d), or (n, layers, d) for
    several layers, and .safetensors: one tensor layer_L (n, d) for each layer; both with the rows in a file of their
    own, NAME.rows.parquet. Returns what was written. Raises ActstoreError for another suffix, for rows without row_id
    and for a path inside a store.
    """
    if output.suffix not in WRITERS:
        raise ActstoreError(f"{output}: export writes {', '.join(WRITERS)}, not '{output.suffix}'")
    inside = next((folder for folder in output.resolve().parents if (folder / HEADER).exists()), None)
    if inside is not None:
        raise ActstoreError(f"{output} is inside the store {inside}: write it elsewhere, a store is never edited")
    for layer in layers:
        store.header.layer_index(layer)
    rows = store.sql(query)
    store.residual(rows.head(0), layers[0])
    try:
        WRITERS[output.suffix](store, rows, layers, output)
    except OSError as error:
        raise ActstoreError(f"{output}: cannot be written: {error.strerror or error}") from error
    written = [output, _rows_beside(output)]
    return written[:1] if output.suffix == ".parquet" else written


def _rows_beside(output: Path) -> Path:
    """Where the rows of an array go: never over an export in Parquet of the same name."""
    return output.with_suffix(".rows.parquet")


def _parquet(store: Store, rows: pl.DataFrame, layers: Sequence[int], output: Path) -> None:
    d_model = store.header.d_model
    vectors = [pa.field(f"layer_{layer}", pa.list_(pa.float32(), d_model)) for layer in layers]
    schema = pa.schema([*rows.to_arrow().schema, *vectors])
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        for piece in rows.iter_slices(ROWS_AT_A_TIME):
            columns = [
                pa.FixedSizeListArray.from_arrays(pa.array(store.residual(piece, layer).reshape(-1)), d_model)
                for layer in layers
            ]
            writer.write_table(pa.table([*piece.to_arrow().columns, *columns], schema=schema))


def _npy(store: Store, rows: pl.DataFrame, layers: Sequence[int], output: Path) -> None:
    shape = (rows.height, len(layers), store.header.d_model)
    flat = shape if len(layers) > 1 else (shape[0], shape[2])
    array = np.lib.format.open_memmap(output, mode="w+", dtype=np.float32, shape=flat)
    for index, layer in enumerate(layers):
        array.reshape(shape)[:, index] = store.residual(rows, layer)
    array.flush()
    write_table(_rows_beside(output), rows)


def _safetensors(store: Store, rows: pl.DataFrame, layers: Sequence[int], output: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({f"layer_{layer}": store.residual(rows, layer) for layer in layers}, output)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    output.chmod(READABLE)  # safetensors writes for the owner alone
    write_table(_rows_beside(output), rows)


WRITERS: dict[str, Callable[[Store, pl.DataFrame, Sequence[int], Path], None]] = {
    ".parquet": _parquet,
    ".npy": _npy,
    ".safetensors": _safetensors,
}
