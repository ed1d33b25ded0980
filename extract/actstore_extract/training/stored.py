"""Stored vectors for torch: which of a store, and what goes with them."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from actstore.errors import ActstoreError, nearest
from actstore.format.given import names, numbers, whole
from actstore.read.vectors import Rows, row_ids_of
from actstore.sql.own import rows_of
from actstore.store import Store
from actstore_extract.training.vectors import ROWS_AT_A_TIME, Column, Source, Streamed, Vectors

__all__ = ["Stored"]

NUMBERS = (pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.Float32, pl.Float64)


class Stored:
    """The vectors of one store for torch: `store.torch(query, layer=6)`, `store.torch.stream(query, layer=6)`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(
        self,
        rows: str | Rows,
        layer: int | None = None,
        *,
        layers: Sequence[int] | None = None,
        columns: str | Sequence[str] = (),
    ) -> Vectors:
        """All of them in memory, item i of row i; a DataLoader may shuffle them.

        rows: a query, or as for `store.residual`, as are layer and layers.
        columns: of the rows, or else of the view rows, given with each vector: numbers become tensors, text stays text.
        Raises ActstoreError for more than the store's limits allow, for no rows, for vectors that are NaN, and for a
        column with NULL or of another type.
        """
        return Vectors(self._store, *self._of(rows, layer, layers, columns))

    def stream(
        self,
        rows: str | Rows,
        layer: int | None = None,
        *,
        layers: Sequence[int] | None = None,
        columns: str | Sequence[str] = (),
        seed: int | None = 0,
        buffer: int = ROWS_AT_A_TIME,
    ) -> Streamed:
        """Read while they are used, however many there are, each once in an epoch, in an order that `seed` names.

        buffer: how many vectors a worker holds at a time, and shuffles; they are of eight places of the store.
        seed: None is the order of the store, by row_id. The rest is as for `store.torch`.
        """
        seed, buffer = None if seed is None else whole(seed, "seed", least=0), whole(buffer, "buffer", least=1)
        return Streamed(self._store, *self._of(rows, layer, layers, columns), seed, buffer)

    def _of(
        self, rows: str | Rows, layer: int | None, layers: Sequence[int] | None, columns: str | Sequence[str]
    ) -> tuple[Source, dict[str, Column]]:
        found, asked = self._store.sql(rows) if isinstance(rows, str) else rows, names(columns, "columns")
        layers = None if layers is None else numbers(layers, "layers")
        source = Source(row_ids_of(found), layer, layers)
        if not len(source.row_ids):
            raise ActstoreError("there are no rows: the query chooses none")
        self._store.residual(source.row_ids[:0], layer, layers=layers)  # whether there are such layers
        table = rows_of(found)
        if not {*asked} <= {*getattr(table, "columns", ())}:
            table = self._store.described(found)
        return source, {name: _column(table, name) for name in asked}


def _column(rows: pl.DataFrame, name: str) -> Column:
    """A column as a DataLoader can put it together: a tensor, or text."""
    if name not in rows.columns:
        hint = nearest(name, rows.columns, f"the rows have {', '.join(rows.columns)}")
        raise ActstoreError(f"no column '{name}'{hint}")
    if name in ("x", "row_id"):
        raise ActstoreError(f"every item has '{name}' of its own; call the column something else in the query")
    column = rows[name]
    if column.null_count():
        raise ActstoreError(
            f"column '{name}' is NULL in {column.null_count()} of {len(column)} rows, which no tensor holds; "
            f"leave those out, or say what is meant: coalesce({name}, 0)"
        )
    kind = column.dtype
    if kind == pl.String:
        return np.array(column.to_list(), np.dtypes.StringDType())
    if kind in NUMBERS:
        return torch.from_numpy(column.to_numpy(writable=True))
    raise ActstoreError(
        f"column '{name}' is of type {kind}; numbers, text, True and False can be given: cast it in SQL"
    )
