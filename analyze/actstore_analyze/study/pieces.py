"""Pieces: rows and layers cut in the order of the store, so that each file is read once and no piece is too large."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actstore.read.parts import Part
from actstore.store import Store

__all__ = ["BLOCK_BYTES", "Piece", "cut", "part_of", "size"]

BLOCK_BYTES = 1 << 29  # of vectors in memory at a time
PIECE_BYTES = 1 << 27  # of vectors of a piece, at least: one of less is not worth sending away
MOST = 512  # pieces of a question, about

RowIds = NDArray[np.int64]


class Piece(NamedTuple):
    """Rows (n,) by part and row_id, at some layers."""

    row_ids: RowIds
    layers: tuple[int, ...]


def size(n_bytes: int) -> int:
    """How large the pieces of so many bytes are: who computes them does not matter to it."""
    return max(PIECE_BYTES, n_bytes // MOST)


def cut(store: Store, role: str, row_ids: RowIds, layers: Sequence[int], most: int) -> Iterator[Piece]:
    """Rows of a role at layers in pieces of at most `most` bytes as float32: parts of the store, at all of the layers.

    A part that is larger goes in layers, those that share a file together; a layer of more than BLOCK_BYTES in rows,
    blocks of so many together.
    """
    each, whole = 4 * store.header.d_model, tuple(layers)
    together: list[RowIds] = []
    filled = 0
    for part, own in _by_part(store, row_ids):
        n_bytes = each * len(own) * len(whole)
        if together and filled + n_bytes > most:
            yield Piece(np.concatenate(together), whole)
            together, filled = [], 0
        if n_bytes > most:
            yield from _of_part(store, part, role, Piece(own, whole), most)
        else:
            together, filled = [*together, own], filled + n_bytes
    if together:
        yield Piece(np.concatenate(together), whole)


def part_of(store: Store, row_ids: RowIds) -> NDArray[np.int64]:
    """The number (n,) of the part that holds each row; rows must be in the store."""
    known = {batch: number for number, part in enumerate(store.parts) for batch in part.commit.batches}
    batches, which = np.unique(row_ids >> 32, return_inverse=True)
    return np.array([known[int(batch)] for batch in batches], np.int64)[which]


def _by_part(store: Store, row_ids: RowIds) -> Iterator[tuple[Part, RowIds]]:
    """Parts in the order of the store, with those of the rows that they hold, sorted."""
    numbers = part_of(store, row_ids)
    order = np.lexsort((row_ids, numbers))
    ordered, numbers = row_ids[order], numbers[order]
    for number in np.unique(numbers):
        start, end = np.searchsorted(numbers, [number, number + 1])
        yield store.parts[number], ordered[start:end]


def _of_part(store: Store, part: Part, role: str, piece: Piece, most: int) -> Iterator[Piece]:
    """A part in layers, file by file, or in rows, where one layer is too large."""
    rows, layers = piece
    of_layer = 4 * store.header.d_model * len(rows)
    if of_layer > BLOCK_BYTES:
        step = max(1, BLOCK_BYTES // (4 * store.header.d_model)) * max(1, most // BLOCK_BYTES)
        yield from (Piece(rows[at : at + step], (one,)) for one in layers for at in range(0, len(rows), step))
        return
    per_file = part.commit.arrays[f"residual/{role}"].shards[0]
    files: dict[int, list[int]] = {}
    for layer in layers:
        files.setdefault(store.header.layer_index(layer) // per_file, []).append(layer)
    together: list[int] = []
    for own in files.values():
        if together and of_layer * len(together + own) > most:
            yield Piece(rows, tuple(together))
            together = []
        together = together + own
    yield Piece(rows, tuple(together))
