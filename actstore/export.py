"""Exports: rows with their vectors in formats that other tools read."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore.tables import write_table

ROWS_AT_A_TIME = 16_384


def export(store: Store, query: str, layers: Sequence[int], output: Path) -> int:
    """Write the rows of a query with their vectors at `layers`; the suffix of `output` says how.

    .parquet: one table, a column layer_L of float lists for each layer. .npy: an array (n, d), or (n, layers, d) for
    several layers, and .safetensors: one tensor layer_L (n, d) for each layer; both with the rows beside them as
    .parquet. Returns n. Raises ActstoreError for another suffix and for rows without row_id.
    """
    if output.suffix not in WRITERS:
        raise ActstoreError(f"{output}: export writes {', '.join(WRITERS)}, not '{output.suffix}'")
    for layer in layers:
        store.header.layer_index(layer)
    rows = store.sql(query)
    store.residual(rows.head(0), layers[0])
    try:
        WRITERS[output.suffix](store, rows, layers, output)
    except OSError as error:
        raise ActstoreError(f"{output}: cannot be written: {error.strerror or error}") from error
    return rows.height


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
    write_table(output.with_suffix(".parquet"), rows)


def _safetensors(store: Store, rows: pl.DataFrame, layers: Sequence[int], output: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({f"layer_{layer}": store.residual(rows, layer) for layer in layers}, output)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    write_table(output.with_suffix(".parquet"), rows)


WRITERS: dict[str, Callable[[Store, pl.DataFrame, Sequence[int], Path], None]] = {
    ".parquet": _parquet,
    ".npy": _npy,
    ".safetensors": _safetensors,
}
