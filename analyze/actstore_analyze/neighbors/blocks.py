"""Search among blocks: the nearest of some points among others that come a block at a time, never all in memory."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from actstore_analyze.neighbors.exact import blocks, differences, gamma, ordered, products
from actstore_analyze.neighbors.neighbors import Floats, Ints
from actstore_analyze.neighbors.points import Points, centre_of, centred_at
from actstore_analyze.neighbors.tiles import Singles, Tiler

__all__ = ["Block", "search_blocks"]

_LEAST = -1e38  # less than x.y - |y|^2 / 2 of any points of a moderate size, and a float32


class Block(NamedTuple):
    """Points (b, d), their numbers (b,) among all, and their groups (b,): those of one are never neighbours."""

    points: Points
    numbers: Ints
    groups: Ints


def search_blocks(queries: Block, base: Iterable[Block], k: int, tie: float, tiler: Tiler) -> tuple[Floats, Ints]:
    """Distances and numbers (m, k) of the nearest of the queries in other groups, whatever the blocks of the base.

    Float32 products say who may be nearer than the k-th so far, with the error bound of `search`, and float64
    differences decide. Points of the base have k others each at least.
    """
    if k == 0:
        return np.empty((len(queries.numbers), 0)), np.empty((len(queries.numbers), 0), np.int64)
    centre = centre_of(queries.points)
    parts = [
        _Queries(_Side(_only(queries, some), centre, tiler), k, tie)
        for some in blocks(len(queries.points), 1, tiler.rows)
    ]
    for block in base:
        for some in blocks(len(block.points), 1, tiler.columns):
            others = _Side(_only(block, some), centre, tiler)
            for part in parts:
                part.compare(others, tiler)
        del block, others  # before the next one is read
    distances, numbers = zip(*(part.nearest() for part in parts), strict=True)
    return np.concatenate(distances), np.concatenate(numbers)


def _only(block: Block, some: slice) -> Block:
    return Block(block.points[some], block.numbers[some], block.groups[some])


class _Side:
    """Points with what float32 has of them: around the centre, half their squared norms, and norms that are no less."""

    def __init__(self, block: Block, centre: Floats, tiler: Tiler) -> None:
        self.points, self.numbers, self.groups = block
        self.centre = centre
        centred = centred_at(block.points, centre)
        self.there = tiler.put(centred)
        self.halves: Singles = np.vecdot(centred, centred) / np.float32(2)
        self.share = gamma(centred.shape[1] + 16, np.float32)
        self.norms = np.sqrt(2 * self.halves.astype(np.float64)) * (1 + self.share)


class _Queries:
    """The nearest so far of some queries: row, number and distance of each, by row, distance, number.

    Those too that are no more than two ties farther than the k-th: they may be as far, and come first.
    """

    def __init__(self, side: _Side, k: int, tie: float) -> None:
        self._side, self._k, self._tie = side, k, tie
        self._row, self._number, self._distance = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
        self._kth = np.full(len(side.points), np.inf)

    def compare(self, others: _Side, tiler: Tiler) -> None:
        """Have those of the others that are among the nearest."""
        own, side = self._side, others
        tile = tiler.near(own.there, side.there, side.halves)
        hidden = _pairs(own.groups, side.groups)
        tile.hide(*hidden)
        d = own.points.shape[1]
        share, least = side.share, d * float(np.finfo(np.float32).tiny)
        reach = self._kth * (1 + gamma(d + 16, np.float64))
        squares = 2 * own.halves.astype(np.float64)
        if np.isinf(reach).any() and len(side.points) >= self._k:
            near, columns = tile.nearest(self._k)
            far = side.norms[columns].max(axis=1)
            farthest = (squares - 2 * near[:, -1].astype(np.float64)).clip(0) + share * (own.norms + far) ** 2 + least
            reach = np.minimum(reach, np.sqrt(farthest))
        reach += 2 * self._tie
        # A y farther than |x| + reach from the centre cannot be a neighbour.
        error = share * (own.norms + np.minimum(side.norms.max(), own.norms + reach)) ** 2 + least
        bound = np.maximum((squares - reach**2 - error) / 2, _LEAST)
        bound = np.nextafter(bound.astype(np.float32), np.float32(-np.inf))
        row, column, crowded = tile.within(bound, _crowd(self._k))
        if len(crowded):
            more = self._doubtful(side, crowded, reach[crowded], hidden)
            row, column = np.concatenate([row, more[0]]), np.concatenate([column, more[1]])
        if len(row):
            distances = differences(own.points, row, side.points, column, tiler.threads)
            self._take(row, side.numbers[column], distances)

    def _doubtful(self, side: _Side, rows: Ints, reach: Floats, hidden: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
        """Row and column of pairs that float64 products leave, for rows to which float32 leaves too many."""
        squares, error = products(self._side.points[rows], side.points, side.centre)
        place = np.full(len(self._side.points), -1)
        place[rows] = np.arange(len(rows))
        own = place[hidden[0]] >= 0
        squares[place[hidden[0][own]], hidden[1][own]] = np.inf
        if squares.shape[1] >= self._k:
            farthest = np.partition(squares + error, self._k - 1, axis=1)[:, self._k - 1]
            reach = np.minimum(reach, np.sqrt(farthest) + 2 * self._tie)
        row, column = np.nonzero(np.isfinite(squares) & (squares - error <= (reach**2)[:, None]))
        return rows[row], column

    def _take(self, row: Ints, number: Ints, distance: Floats) -> None:
        row, number = np.concatenate([self._row, row]), np.concatenate([self._number, number])
        distance = np.concatenate([self._distance, distance])
        order = np.lexsort((number, distance, row))
        row, number, distance = row[order], number[order], distance[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        last = place == self._k - 1
        self._kth[row[last]] = distance[last]
        kept = place < self._k if self._tie == 0 else distance <= self._kth[row] + 2 * self._tie
        self._row, self._number, self._distance = row[kept], number[kept], distance[kept]

    def nearest(self) -> tuple[Floats, Ints]:
        """Distances and numbers (m, k)."""
        counts = np.bincount(self._row, minlength=len(self._kth))
        filled = np.arange(counts.max()) < counts[:, None]
        distances, numbers = np.full(filled.shape, np.inf), np.full(filled.shape, np.iinfo(np.int64).max)
        distances[filled], numbers[filled] = self._distance, self._number
        distances, numbers = ordered(distances, numbers, self._tie)
        return distances[:, : self._k], numbers[:, : self._k]


def _crowd(k: int) -> int:
    """Pairs of a row and a tile of which float64 products leave fewer at less cost than their differences have."""
    return 4 * k + 64


def _pairs(own: Ints, others: Ints) -> tuple[Ints, Ints]:
    """Row and column of each pair of equal groups."""
    order = np.argsort(others, kind="stable")
    first, last = (np.searchsorted(others, own, side, sorter=order) for side in ("left", "right"))
    counts = last - first
    row = np.repeat(np.arange(len(own)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, order[np.repeat(first, counts) + within]
