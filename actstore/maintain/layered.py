"""Arrays that are read layer by layer, of one part or of several, to be written into another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.read.arrays import ArrayReader
from actstore.read.parts import Part
from actstore.write.batch import Layered

__all__ = ["Columns", "Some", "Vectors"]


@dataclass(frozen=True)
class _Piece:
    """The rows of a role that one part holds: where they lie there, and where they go."""

    array: ArrayReader
    places: NDArray[np.int64]
    targets: NDArray[np.int64]


class Vectors:
    """The vectors (layers or blocks, rows, width) of a role in several parts, by row_id, read when asked for."""

    def __init__(self, name: str, parts: Sequence[Part], rows: pl.DataFrame) -> None:
        spec = next(part.commit.arrays[name] for part in parts if name in part.commit.arrays)
        self.shape = (spec.shape[0], rows.height, spec.shape[-1])
        part, place = rows["part"].to_numpy(), rows["place"].cast(pl.Int64).to_numpy()
        self._pieces = [
            _Piece(parts[index].array(name), place[part == index], np.flatnonzero(part == index))
            for index in np.unique(part)
        ]

    def __getitem__(self, layers: slice, /) -> NDArray[np.float32]:
        chosen = range(self.shape[0])[layers]
        out = np.empty((len(chosen), *self.shape[1:]), np.float32)
        for piece in self._pieces:
            piece.array.take(chosen, piece.places, [*out], piece.targets)
        return out


class Columns:
    """Attention (layers, samples, ...) of several parts, one after the other, NaN where one is shorter."""

    def __init__(self, arrays: Sequence[ArrayReader]) -> None:
        self._arrays = arrays
        shapes = [array.spec.shape for array in arrays]
        samples, width = sum(shape[1] for shape in shapes), max(shape[-1] for shape in shapes)
        self.shape = (shapes[0][0], samples, *shapes[0][2:-1], width)

    def __getitem__(self, layers: slice, /) -> NDArray[np.float32]:
        chosen = range(self.shape[0])[layers]
        out = np.full((len(chosen), *self.shape[1:]), np.nan, np.float32)
        for index, layer in enumerate(chosen):
            start = 0
            for array in self._arrays:
                values = array.layer(layer)
                out[index, start : start + len(values), ..., : values.shape[-1]] = values
                start += len(values)
        return out


class Some:
    """Some layers of an array, and of these some entries of the second axis."""

    def __init__(self, array: Layered, layers: Sequence[int], entries: NDArray[np.int64] | None = None) -> None:
        self._array, self._layers, self._entries = array, layers, entries
        n_entries = array.shape[1] if entries is None else len(entries)
        self.shape = (len(layers), n_entries, *array.shape[2:])

    def __getitem__(self, layers: slice, /) -> NDArray[np.generic]:
        each = [self._array[layer : layer + 1] for layer in self._layers[layers]]
        return np.concatenate([one if self._entries is None else one[:, self._entries] for one in each])
