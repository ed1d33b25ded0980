"""AnnData's files: rows with their vectors for scanpy and cellxgene, written as its page on the format on disk says.

https://anndata.readthedocs.io/en/stable/fileformat-prose.html (0.8 and later). By h5py, some rows at a time: anndata
holds all of them in memory, and does not go with every release of pandas.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.commands.columns import ROWS_AT_A_TIME, Column, held, width_of
from actstore.commands.table import flat
from actstore.errors import ActstoreError
from actstore.handing import how_to_install
from actstore.storage import local

__all__ = ["write"]

Group = Any  # of h5py, which has no types
INDEX = "row_id"  # an index, and no column: cellxgene takes no integers of more than 32 bits
OF_AXES = 2_000  # rows that the principal axes are of, at most


def write(rows: pl.DataFrame, columns: Sequence[Column], output: Path, said: Mapping[str, str]) -> None:
    """X (n, width) is the last of the columns, `layers` has each by its name, `obs` the rows, called by their row_id.

    `obsm/X_plane` (n, 2), without which cellxgene opens nothing, is X in the plane of its first two principal axes,
    those of 2,000 rows if there are more. `uns/actstore` is where it all comes from, as JSON.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ActstoreError(f".h5ad needs {how_to_install(error)}") from None

    width, names = width_of(columns), rows[INDEX].cast(pl.String)
    if names.n_unique() < rows.height:
        raise ActstoreError(".h5ad calls rows by their row_id, and some are there twice; choose each once")
    with h5py.File(output, "w") as file:
        _kind(file, "anndata", "0.1.0")
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            _kind(file.create_group(name), "dict", "0.1.0")
        _frame(file.create_group("obs"), flat(rows.drop(INDEX)), names)
        _frame(file.create_group("var"), pl.DataFrame(), pl.Series("d", [str(i) for i in range(width)]))
        for name, value in said.items():
            _kind(file["uns"].create_dataset(name, data=value), "string", "0.2.0")
        for column in columns:
            vectors = file["layers"].create_dataset(column.name, (rows.height, width), np.float32)
            _kind(vectors, "array", "0.2.0")
            for start in range(0, rows.height, ROWS_AT_A_TIME):
                vectors[start : start + ROWS_AT_A_TIME] = held(column, rows[start : start + ROWS_AT_A_TIME])
        file["X"] = file[f"layers/{columns[-1].name}"]  # the same bytes by a second name
        _kind(file["obsm"].create_dataset("X_plane", data=_plane(file["X"])), "array", "0.2.0")
    local.open_to_readers(output)


def _plane(x: Any) -> NDArray[np.float32]:
    """Coordinates (n, 2) of vectors along their first two principal axes, of a choice of them at even distances."""
    chosen = x[:: max(1, -(-len(x) // OF_AXES))]
    mean = chosen.mean(0)
    _, vectors = np.linalg.eigh((chosen - mean) @ (chosen - mean).T)  # as many as rows, where d may be larger
    axes = vectors[:, ::-1][:, :2].T @ (chosen - mean)
    axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    found = np.zeros((len(x), 2), np.float32)
    for start in range(0, len(x), ROWS_AT_A_TIME):
        found[start : start + ROWS_AT_A_TIME, : len(axes)] = (x[start : start + ROWS_AT_A_TIME] - mean) @ axes.T
    return found


def _frame(group: Group, table: pl.DataFrame, index: pl.Series) -> None:
    """A table whose rows are called by `index`; columns that are NULL everywhere are left out."""
    kept = [one for one in table if one.null_count() < len(one)]
    for one in kept:
        if "/" in one.name or one.name == "_index":
            raise ActstoreError(f"no .h5ad has a column '{one.name}'; call it something else in the query")
        _column(group, one)
    _kind(group, "dataframe", "0.2.0")
    group.attrs["_index"] = index.name
    group.attrs.create("column-order", [one.name for one in kept], dtype=_text(), shape=(len(kept),))
    _texts(group, index.name, index)


def _column(group: Group, column: pl.Series) -> None:
    """A column in AnnData's own types; of texts that repeat or are NULL a category each, as anndata writes them."""
    column = _plain(column)
    if column.dtype != pl.String:
        _array(group, column.name, column.to_numpy())  # NULL among floats is NaN
        return
    known = column.drop_nulls().unique().sort()
    if len(known) == len(column):
        _texts(group, column.name, column)
        return
    made = group.create_group(column.name)
    codes = column.replace_strict(known, pl.int_range(len(known), eager=True), default=-1).cast(pl.Int32)
    _array(made, "codes", codes.to_numpy())
    _texts(made, "categories", known)
    made.attrs["ordered"] = False
    _kind(made, "categorical", "0.2.0")


def _plain(column: pl.Series) -> pl.Series:
    """A column as numbers, True and False, or text. No integers or bools with NULL: cellxgene takes none of those."""
    kind, lacking = column.dtype, column.null_count() > 0
    if kind == pl.Binary:
        return column.bin.encode("hex")
    if kind.is_decimal() or (lacking and kind.is_integer() and column.cast(pl.Float64).cast(kind).equals(column)):
        return column.cast(pl.Float64)
    if kind.is_float() or (not lacking and (kind.is_integer() or kind == pl.Boolean)):
        return column
    return column.cast(pl.String)


def _array(group: Group, name: str, values: NDArray[np.generic]) -> None:
    _kind(group.create_dataset(name, data=values), "array", "0.2.0")


def _texts(group: Group, name: str, values: pl.Series) -> None:
    try:
        made = group.create_dataset(name, data=values.to_list(), dtype=_text())
    except ValueError as error:  # of NUL
        raise ActstoreError(f"column '{values.name}': no .h5ad holds such text ({error})") from None
    _kind(made, "string-array", "0.2.0")


def _text() -> Any:
    import h5py

    return h5py.string_dtype("utf-8")


def _kind(made: Group, kind: str, version: str) -> None:
    made.attrs["encoding-type"], made.attrs["encoding-version"] = kind, version
