"""Tiles of float32 products, on a CPU or a GPU: how near some points are to some others, all pairs at a time."""

import os
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.devices import Device
from actstore_analyze.neighbors.neighbors import Ints

__all__ = ["Accelerator", "Processor", "Tile", "Tiler", "tiler_on"]

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
    """Who makes tiles: of how many rows and columns at most, and with how many threads float64 decides meanwhile."""

    rows: int
    columns: int
    threads: int

    def put(self, centred: Singles, /) -> Any:
        """Points (n, d) where they are multiplied."""

    def near(self, queries: Any, others: Any, halves: Singles) -> Tile:
        """The tile of queries (m, d) and others (b, d), both put there; halves (b,) of the squared norms of others."""


def tiler_on(device: Device) -> Tiler:
    """The tiler of a device."""
    return Processor() if device.xp is np else Accelerator(device)


class Processor:
    """Tiles of numpy's, which stay in the cache."""

    rows, columns, threads = 512, 8192, 1

    def put(self, centred: Singles) -> Singles:
        """See Tiler."""
        return centred

    def near(self, queries: Singles, others: Singles, halves: Singles) -> Tile:
        """See Tiler."""
        values = queries @ others.T
        values -= halves
        return _Values(values)


class _Values:
    """A tile of numpy's."""

    def __init__(self, values: Singles) -> None:
        self._values = values

    def hide(self, row: Ints, column: Ints) -> None:
        """See Tile."""
        self._values[row, column] = -np.inf

    def nearest(self, k: int) -> tuple[Singles, Ints]:
        """See Tile."""
        b = self._values.shape[1]
        columns = np.argpartition(self._values, b - k, axis=1)[:, b - k :][:, ::-1]
        return np.take_along_axis(self._values, columns, 1), columns

    def within(self, least: Singles, most: int) -> tuple[Ints, Ints, Ints]:
        """See Tile."""
        near = self._values >= least[:, None]
        crowded = np.flatnonzero(near.sum(axis=1) > most)
        near[crowded] = False
        row, column = np.nonzero(near)
        return row, column, crowded


class Accelerator:
    """Tiles of PyTorch's on a device, large ones: half a gigabyte."""

    rows, columns, threads = 1024, 131_072, os.cpu_count() or 1

    def __init__(self, device: Device) -> None:
        self._device = device

    def put(self, centred: Singles) -> Any:
        """See Tiler."""
        return self._device.put(centred)

    def near(self, queries: Any, others: Any, halves: Singles) -> Tile:
        """See Tiler."""
        values = queries @ others.T
        values -= self._device.put(halves)
        return _There(self._device, values)


class _There:
    """A tile on a device."""

    def __init__(self, device: Device, values: Any) -> None:
        self._device, self._values = device, values

    def hide(self, row: Ints, column: Ints) -> None:
        self._values[self._device.put(row), self._device.put(column)] = -np.inf

    def nearest(self, k: int) -> tuple[Singles, Ints]:
        values, columns = self._device.xp.topk(self._values, k, dim=1)
        return self._device.get(values), self._device.get(columns)

    def within(self, least: Singles, most: int) -> tuple[Ints, Ints, Ints]:
        near = self._values >= self._device.put(least)[:, None]
        is_crowded = near.sum(1) > most
        near &= ~is_crowded[:, None]
        row, column = self._device.get(near.nonzero()).T
        return row, column, np.flatnonzero(self._device.get(is_crowded))
