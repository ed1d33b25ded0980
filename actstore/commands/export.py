"""Exports: rows with their vectors in formats that other tools read."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actstore.commands import h5ad, outputs
from actstore.commands.columns import ROWS_AT_A_TIME, Column, held, width_of
from actstore.commands.outputs import written
from actstore.commands.table import flat
from actstore.errors import ActstoreError
from actstore.format.given import suffix_of
from actstore.format.origin import origin
from actstore.format.tables import arrow_of, write_arrow
from actstore.progress import Bar, bar
from actstore.storage import local
from actstore.storage.links import plain
from actstore.store import Store

NO_TOKEN = -1  # what is no token of its own, a mean for example


def export(
    store: Store,
    query: str,
    layers: Sequence[int],
    output: Path,
    *,
    keys: Sequence[int] = (),
    values: Sequence[int] = (),
    overwrite: bool = False,
) -> list[Path]:
    """Write the rows of a query with their vectors at `layers`, and keys and values in blocks; the suffix of `output`
    says how.

    .parquet: one table, a column layer_L (keys_B, values_B) of float lists for each layer or block. .npy: an array
    (n, d), or (n, columns, d) for several, and .safetensors: one tensor layer_L (n, d) for each layer; both with the
    rows in a file of their own, x.npy.rows.parquet. .csv: a column layer_L_I for each number of a vector. .h5ad:
    AnnData, with all columns in its layers and the last as X (`h5ad`). .sae-lens: a folder in the form of sae-lens'
    cached activations. What was asked of which store stands in the metadata of Parquet and safetensors and in `uns` of
    AnnData under `actstore` (`format.origin`), for the other forms in those of the rows beside.
    Returns what was written: each file whole or not at all. Raises ActstoreError for another suffix, for no rows, for
    rows without row_id or what is asked, for columns of one name, for a file that is there unless `overwrite`, and for
    a path inside a store.
    """
    if (suffix := suffix_of(output)) not in SUFFIXES:
        raise ActstoreError(f"{output}: export writes {', '.join(SUFFIXES)}, not '{output.suffix}'")
    outputs.check(output)
    beside = output.with_name(f"{output.name}.rows.parquet")
    for path in (output, *([] if suffix in ALONE else [beside])):
        if path.exists() and (not overwrite or path.is_dir()):
            remedy = "remove it" if path.is_dir() else "write over it with --overwrite"
            raise ActstoreError(f"{path}: it exists; {remedy}, or choose another name")
    layers = [store.header.layer_of(layer) for layer in layers]
    keys, values = ([store.header.block_of(block) for block in blocks] for blocks in (keys, values))
    rows = store.sql(query)
    if not rows.height:
        raise ActstoreError(f"{output}: not written, the query chooses no rows")
    columns = [
        *(_column(f"layer_{layer}", partial(store.residual, layer=layer), rows) for layer in layers),
        *(_column(f"keys_{block}", partial(store.keys, block=block), rows) for block in keys),
        *(_column(f"values_{block}", partial(store.values, block=block), rows) for block in values),
    ]
    _check_names(rows, columns, output)
    asked = origin(Path(store.place), store.state, store.run, sql=query, layers=layers, keys=keys, values=values)
    said = {"actstore": json.dumps(asked)}
    with bar(rows.height * len(columns), "vectors") as progress:
        counted = [column._replace(read=partial(_counted, column, progress)) for column in columns]
        return _written(rows, counted, output, beside, said)


def _check_names(rows: pl.DataFrame, columns: Sequence[Column], output: Path) -> None:
    """What is written together has a name of its own."""
    names = Counter(column.name for column in columns)
    if suffix_of(output) == ".csv":
        names.update(f"{column.name}_{i}" for column in columns for i in range(column.width))
    if suffix_of(output) in (".csv", ".parquet"):
        names.update(rows.columns)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise ActstoreError(
            f"{output}: two columns would be called '{twice}'; name each layer once, and the query's columns otherwise"
        )


def _counted(column: Column, progress: Bar, rows: pl.DataFrame) -> NDArray[np.float32]:
    found = column.read(rows)
    progress.advance(len(rows))
    return found


def _written(
    rows: pl.DataFrame, columns: Sequence[Column], output: Path, beside: Path, said: Mapping[str, str]
) -> list[Path]:
    """Write the rows with their vectors; returns what was written."""
    if (suffix := suffix_of(output)) in ALONE:
        with written(output) as draft:
            WRITERS[suffix](rows, columns, draft, said)
        return [output]
    table = arrow_of(rows)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **said})
    if suffix == ".sae-lens":
        with written(beside) as draft:
            write_arrow(draft, table)
            _sae_lens(rows, columns, output)
    else:
        with written(output) as draft, written(beside) as draft_beside:
            WRITERS[suffix](rows, columns, draft, said)
            write_arrow(draft_beside, table)
    return [output, beside]


def _column(name: str, read: Callable[[pl.DataFrame], NDArray[np.float32]], rows: pl.DataFrame) -> Column:
    return Column(name, read(rows.head(0)).shape[1], read)


def _parquet(rows: pl.DataFrame, columns: Sequence[Column], output: Path, said: Mapping[str, str]) -> None:
    vectors = [pa.field(column.name, pa.list_(pa.float32(), column.width)) for column in columns]
    schema = pa.schema([*rows.to_arrow().schema, *vectors], metadata=dict(said))
    with output.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for piece in rows.iter_slices(ROWS_AT_A_TIME):
            found = [
                pa.FixedSizeListArray.from_arrays(pa.array(column.read(piece).reshape(-1)), column.width)
                for column in columns
            ]
            writer.write_table(pa.table([*piece.to_arrow().columns, *found], schema=schema))


def _csv(rows: pl.DataFrame, columns: Sequence[Column], output: Path, _: Mapping[str, str]) -> None:
    with output.open("wb") as file:
        for piece in rows.iter_slices(ROWS_AT_A_TIME):
            found = [
                pl.from_numpy(column.read(piece), [f"{column.name}_{i}" for i in range(column.width)])
                for column in columns
            ]
            flat(pl.concat([piece, *found], how="horizontal")).write_csv(file, include_header=not file.tell())


def _npy(rows: pl.DataFrame, columns: Sequence[Column], output: Path, _: Mapping[str, str]) -> None:
    shape = (rows.height, len(columns), width_of(columns))
    flat = shape if len(columns) > 1 else (shape[0], shape[2])
    facts = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": flat}
    with output.open("wb") as file:  # not mapped: a full disk ends a process that writes to a map
        np.lib.format.write_array_header_1_0(file, facts)
        for piece in rows.iter_slices(ROWS_AT_A_TIME):
            file.write(np.stack([column.read(piece) for column in columns], axis=1).data)


def _safetensors(rows: pl.DataFrame, columns: Sequence[Column], output: Path, said: Mapping[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({column.name: column.read(rows) for column in columns}, output, metadata=dict(said))
    except SafetensorError as error:
        raise OSError(str(error)) from error
    local.open_to_readers(output)


def _sae_lens(rows: pl.DataFrame, columns: Sequence[Column], output: Path) -> None:
    """A data set that sae-lens trains on: a column [1, d] for each layer, called as TransformerLens calls the hook."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    names = {column.name: _hook(column.name) for column in columns}
    vectors = {names[column.name]: datasets.Array2D((1, column.width), "float32") for column in columns}
    features = datasets.Features({**vectors, "token_ids": datasets.Sequence(datasets.Value("int32"), length=1)})
    tokens = rows["token_id"] if "token_id" in rows.columns else pl.repeat(None, rows.height, eager=True)
    with TemporaryDirectory(dir=plain(output.parent), prefix=".sae-lens.") as folder:
        file = f"{folder}/data.arrow"
        with ArrowWriter(features=features, path=file) as writer:
            for start in range(0, rows.height, ROWS_AT_A_TIME):
                piece = rows[start : start + ROWS_AT_A_TIME]
                batch = {names[column.name]: held(column, piece)[:, None] for column in columns}
                ids = tokens[start : start + ROWS_AT_A_TIME].cast(pl.Int32).fill_null(NO_TOKEN).to_numpy()
                writer.write_batch(batch | {"token_ids": ids[:, None]})
            writer.finalize()
        silent = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        datasets.Dataset.from_file(file).save_to_disk(f"{folder}/made")
        if not silent:
            datasets.enable_progress_bars()
        Path(folder, "made").rename(output)


def _hook(name: str) -> str:
    """TransformerLens' name of a residual point.

    >>> _hook("layer_0"), _hook("layer_6"), _hook("keys_3")
    ('blocks.0.hook_resid_pre', 'blocks.5.hook_resid_post', 'keys_3')
    """
    kind, _, number = name.partition("_")
    if kind != "layer":
        return name
    return f"blocks.{int(number) - 1}.hook_resid_post" if int(number) else "blocks.0.hook_resid_pre"


WRITERS: dict[str, Callable[[pl.DataFrame, Sequence[Column], Path, Mapping[str, str]], None]] = {
    ".parquet": _parquet,
    ".h5ad": h5ad.write,
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".csv": _csv,
}
ALONE = (".parquet", ".h5ad")  # have the rows in them
SUFFIXES = (*WRITERS, ".sae-lens")
