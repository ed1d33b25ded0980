"""Blocks: samples of a place set beside each other, cut into pieces that have each pair of samples once."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BESIDE", "Piece", "Place", "Rows", "cut"]

BESIDE = 4  # blocks that a block is set beside in a piece, of which a quarter of one is read at a time

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = tuple[Ints, ...]  # (n,) of the same samples on either side, once where both are the same


class Place(NamedTuple):
    """A position of the unit of a number, and the roles whose rows these are."""

    unit: int
    roles: tuple[str, str]
    rows: Rows

    @property
    def n(self) -> int:
        """How many samples."""
        return len(self.rows[0])


class Piece(NamedTuple):
    """Samples of the place of a number from `start` on, and others from `first` on, which are read one after another.

    means (L, d): of all samples on either side; None where the first are all.
    """

    place: int
    start: int
    rows: Rows
    first: int
    others: tuple[Rows, ...]
    means: tuple[Floats, ...] | None

    @property
    def n_others(self) -> int:
        """How many are set beside the first."""
        return sum(len(rows[0]) for rows in self.others)

    @property
    def at(self) -> Ints:
        """Which samples of the place these are."""
        own, others = ((self.start, len(self.rows[0])), (self.first, self.n_others))
        return np.concatenate([np.arange(start, start + n) for start, n in (own, others)])

    @property
    def inside(self) -> bool:
        """Whether it has the pairs of two of the first: where the others begin, or there are none."""
        return self.first == self.start + len(self.rows[0])


def cut(number: int, place: Place, step: int, means: tuple[Floats, ...] | None) -> Iterator[Piece]:
    """The place of a number in blocks of `step` samples, each with some of those that follow it.

    >>> rows = np.arange(7)
    >>> [(piece.start, piece.inside, piece.at.tolist()) for piece in cut(0, Place(0, ("a", "a"), (rows,)), 1, None)][:2]
    [(0, True, [0, 1, 2, 3, 4]), (0, False, [0, 5, 6])]
    """
    for start in range(0, place.n, step):
        stop = min(start + step, place.n)
        for first in range(stop, place.n, BESIDE * step) or [stop]:
            last = min(first + BESIDE * step, place.n)
            size = max(1, step // 4)
            others = tuple(_some(place.rows, at, min(at + size, last)) for at in range(first, last, size))
            yield Piece(number, start, _some(place.rows, start, stop), first, others, means)


def _some(rows: Rows, start: int, stop: int) -> Rows:
    return tuple(side[start:stop] for side in rows)
