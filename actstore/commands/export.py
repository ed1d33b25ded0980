"""Exports: rows with their vectors in formats that other tools read."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actstore.commands import outputs
from actstore.commands.outputs import written
from actstore.errors import ActstoreError
from actstore.format.tables import write_table
from actstore.storage import local
from actstore.storage.links import plain
from actstore.store import Store

ROWS_AT_A_TIME = 16_384
NO_TOKEN = -1  # what is no token of its own, a mean for example


class Column(NamedTuple):
    """The vectors (n, width) of rows at one layer, or their keys or values in one block."""

    name: str
    width: int
    read: Callable[[pl.DataFrame], NDArray[np.float32]]


def export(
    store: Store,
    query: str,
    layers: Sequence[int],
    output: Path,
    *,
    keys: Sequence[int] = (),
    values: Sequence[int] = (),
) -> list[Path]:
    """Write the rows of a query with their vectors at `layers`, and keys and values in blocks; the suffix of `output`
    says how.

    .parquet: one table, a column layer_L (keys_B, values_B) of float lists for each layer or block. .npy: an array
    (n, d), or (n, columns, d) for several, and .safetensors: one tensor layer_L (n, d) for each layer; both with the
    rows in a file of their own, x.npy.rows.parquet. .sae-lens: a folder in the form of sae-lens' cached activations.
    Returns what was written: each file whole or not at all. Raises ActstoreError for another suffix, for no rows, for
    rows without row_id or what is asked, and for a path inside a store.
    """
    if output.suffix not in WRITERS:
        raise ActstoreError(f"{output}: export writes {', '.join(WRITERS)}, not '{output.suffix}'")
    outputs.check(output)
    rows = store.sql(query)
    if not rows.height:
        raise ActstoreError(f"{output}: not written, the query chooses no rows")
    columns = [
        *(_column(f"layer_{layer}", partial(store.residual, layer=layer), rows) for layer in layers),
        *(_column(f"keys_{block}", partial(store.keys, block=block), rows) for block in keys),
        *(_column(f"values_{block}", partial(store.values, block=block), rows) for block in values),
    ]
    if output.suffix == ".parquet":
        with written(output) as draft:
            _parquet(rows, columns, draft)
        return [output]
    beside = output.with_name(f"{output.name}.rows.parquet")
    if output.suffix == ".sae-lens":
        with written(beside) as table:
            write_table(table, rows)
            _sae_lens(rows, columns, output)
    else:
        with written(output) as draft, written(beside) as table:
            WRITERS[output.suffix](rows, columns, draft)
            write_table(table, rows)
    return [output, beside]


def _column(name: str, read: Callable[[pl.DataFrame], NDArray[np.float32]], rows: pl.DataFrame) -> Column:
    return Column(name, read(rows.head(0)).shape[1], read)


def _parquet(rows: pl.DataFrame, columns: Sequence[Column], output: Path) -> None:
    vectors = [pa.field(column.name, pa.list_(pa.float32(), column.width)) for column in columns]
    schema = pa.schema([*rows.to_arrow().schema, *vectors])
    with output.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for piece in rows.iter_slices(ROWS_AT_A_TIME):
            found = [
                pa.FixedSizeListArray.from_arrays(pa.array(column.read(piece).reshape(-1)), column.width)
                for column in columns
            ]
            writer.write_table(pa.table([*piece.to_arrow().columns, *found], schema=schema))


def _npy(rows: pl.DataFrame, columns: Sequence[Column], output: Path) -> None:
    if len(widths := {column.width for column in columns}) > 1:
        raise ActstoreError(f"vectors of widths {sorted(widths)} make no array; write .safetensors")
    shape = (rows.height, len(columns), columns[0].width)
    flat = shape if len(columns) > 1 else (shape[0], shape[2])
    facts = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": flat}
    with output.open("wb") as file:  # not mapped: a full disk ends a process that writes to a map
        np.lib.format.write_array_header_1_0(file, facts)
        for piece in rows.iter_slices(ROWS_AT_A_TIME):
            file.write(np.stack([column.read(piece) for column in columns], axis=1).data)


def _safetensors(rows: pl.DataFrame, columns: Sequence[Column], output: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({column.name: column.read(rows) for column in columns}, output)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    local.open_to_readers(output)


def _sae_lens(rows: pl.DataFrame, columns: Sequence[Column], output: Path) -> None:
    """A data set that sae-lens trains on: a column [1, d] for each layer, called as TransformerLens calls the hook."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    if output.exists():
        raise ActstoreError(f"{output}: it exists; remove it, or choose another name")
    names = {column.name: _hook(column.name) for column in columns}
    vectors = {names[column.name]: datasets.Array2D((1, column.width), "float32") for column in columns}
    features = datasets.Features({**vectors, "token_ids": datasets.Sequence(datasets.Value("int32"), length=1)})
    tokens = rows["token_id"] if "token_id" in rows.columns else pl.repeat(None, rows.height, eager=True)
    with TemporaryDirectory(dir=plain(output.parent), prefix=".sae-lens.") as folder:
        file = f"{folder}/data.arrow"
        with ArrowWriter(features=features, path=file) as writer:
            for start in range(0, rows.height, ROWS_AT_A_TIME):
                piece = rows[start : start + ROWS_AT_A_TIME]
                batch = {names[column.name]: _held(column, piece)[:, None] for column in columns}
                ids = tokens[start : start + ROWS_AT_A_TIME].cast(pl.Int32).fill_null(NO_TOKEN).to_numpy()
                writer.write_batch(batch | {"token_ids": ids[:, None]})
            writer.finalize()
        silent = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        datasets.Dataset.from_file(file).save_to_disk(f"{folder}/made")
        if not silent:
            datasets.enable_progress_bars()
        Path(folder, "made").rename(output)


def _held(column: Column, rows: pl.DataFrame) -> NDArray[np.float32]:
    """The vectors of rows, none of which may be of an image that the model takes in later."""
    x = column.read(rows)
    if np.isnan(x).any():
        raise ActstoreError(
            f"{column.name}: some rows hold nothing there, of an image that the model takes in later; leave them out "
            "in SQL (modality <> 'image'), or choose later layers"
        )
    return x


def _hook(name: str) -> str:
    """TransformerLens' name of a residual point.

    >>> _hook("layer_0"), _hook("layer_6"), _hook("keys_3")
    ('blocks.0.hook_resid_pre', 'blocks.5.hook_resid_post', 'keys_3')
    """
    kind, _, number = name.partition("_")
    if kind != "layer":
        return name
    return f"blocks.{int(number) - 1}.hook_resid_post" if int(number) else "blocks.0.hook_resid_pre"


WRITERS: dict[str, Callable[[pl.DataFrame, Sequence[Column], Path], None]] = {
    ".parquet": _parquet,
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".sae-lens": _sae_lens,
}
