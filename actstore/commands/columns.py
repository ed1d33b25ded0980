"""What is exported of rows: their vectors at a layer, or their keys or values in a block."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError

__all__ = ["ROWS_AT_A_TIME", "Column", "held", "width_of"]

ROWS_AT_A_TIME = 16_384


class Column(NamedTuple):
    """The vectors (n, width) of rows at one layer, or their keys or values in one block."""

    name: str
    width: int
    read: Callable[[pl.DataFrame], NDArray[np.float32]]


def held(column: Column, rows: pl.DataFrame) -> NDArray[np.float32]:
    """The vectors of rows, none of which may be of an image that the model takes in later."""
    x = column.read(rows)
    if np.isnan(x).any():
        raise ActstoreError(
            f"{column.name}: some rows hold nothing there, of an image that the model takes in later; leave them out "
            "in SQL (modality <> 'image'), or choose later layers"
        )
    return x


def width_of(columns: Sequence[Column]) -> int:
    """The width that all share, as one array needs it; ActstoreError for several."""
    if len(widths := {column.width for column in columns}) > 1:
        raise ActstoreError(f"vectors of widths {sorted(widths)} make no array; write .safetensors")
    return widths.pop()
