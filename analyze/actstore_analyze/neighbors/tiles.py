"""Tiles of float32 products on the processor: how near some points are to some others, all pairs at a time."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.neighbors.neighbors import Ints

__all__ = ["Processor", "Tile", "Tiler"]

Singles = NDArray[np.float32]


class Tile(Protocol):
    """x.y - |y|^2 / 2 of each query x (m,) with each y (b,): largest where y is nearest."""

    def hide(self, row: Ints, column: Ints) -> None:
        """Have these pairs nowhere near."""

    def nearest(self, k: int) -> tuple[Singles, Ints]:
        """The k largest of each row (m, k), in any order but for the last, which is the least, and their columns."""

    def within(self, least: Singles, most: int) -> tuple[Ints, Ints, Ints]:
        """Row and column of all pairs no less than `least` (m,), by row, but for rows that have more than `most`; these
        rows.
        """


class Tiler(Protocol):
    """Who makes tiles, and the rows and columns that they have at most."""

    rows: int
    columns: int

    def near(self, queries: Singles, others: Singles, halves: Singles) -> Tile:
        """The tile of queries (m, d) and others (b, d), of which halves (b,) are half the squared norms."""


class Processor:
    """Tiles of numpy's, which stay in the cache."""

    rows, columns = 512, 8192

    def near(self, queries: Singles, others: Singles, halves: Singles) -> Tile:
        """See Tiler."""
        values = queries @ others.T
        values -= halves
        return _Values(values)


class _Values:
    def __init__(self, values: Singles) -> None:
        self._values = values

    def hide(self, row: Ints, column: Ints) -> None:
        self._values[row, column] = -np.inf

    def nearest(self, k: int) -> tuple[Singles, Ints]:
        b = self._values.shape[1]
        columns = np.argpartition(self._values, b - k, axis=1)[:, b - k :][:, ::-1]
        return np.take_along_axis(self._values, columns, 1), columns

    def within(self, least: Singles, most: int) -> tuple[Ints, Ints, Ints]:
        near = self._values >= least[:, None]
        crowded = np.flatnonzero(near.sum(axis=1) > most)
        near[crowded] = False
        row, column = np.nonzero(near)
        return row, column, crowded
