"""Merging: what parts hold, in memory, as the content of one part."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.format.layout import VECTORS
from actstore.format.names import dtype_named
from actstore.read.parts import Part
from actstore.write.batch import Batch, Values


def held(part: Part) -> Batch:
    """Everything that a part holds; raises CorruptError for what is not as it was committed."""
    values = {}
    for name, spec in part.commit.arrays.items():
        array = part.array(name)
        layers = np.stack([array.layer(index) for index in range(spec.shape[0])])
        values[name] = Values(layers, spec.dtype, spec.dimensions)
    return Batch(part.samples(), part.rows(), values)


def without(batch: Batch, chosen: pl.Series) -> Batch:
    """The batch without the samples for which `chosen` is true; these have no rows."""
    kept = ~chosen.to_numpy()
    values = {
        name: one if name.split("/")[0] in VECTORS else Values(one.array[:][:, kept], one.dtype, one.dimensions)
        for name, one in batch.values.items()
    }
    return Batch(batch.samples.filter(~chosen), batch.rows, values)


def merged(batches: Sequence[Batch]) -> Batch:
    """Several batches as one: rows by row_id, the vectors of a role in the order of its rows, samples one batch after
    the other, attention with NaN where one is shorter or has none."""
    rows = pl.concat(one.rows.with_columns(piece=pl.lit(i)) for i, one in enumerate(batches)).sort("row_id")
    values = {}
    for name in sorted({name for one in batches for name in one.values}):
        kind, role = name.split("/", 1)
        first = next(one.values[name] for one in batches if name in one.values)
        of_role = rows.filter(pl.col("role") == role)
        array = _vectors(name, batches, of_role) if kind in VECTORS else _columns(name, batches)
        values[name] = Values(array, first.dtype, first.dimensions)
    place = pl.int_range(pl.len()).over("role").cast(pl.Int32)
    return Batch(pl.concat(one.samples for one in batches), rows.drop("piece").with_columns(place=place), values)


def _stored(values: Values) -> NDArray[np.generic]:
    """The array as numbers of the type that is stored."""
    return dtype_named(values.dtype).encode(values.array[:])


def _vectors(name: str, batches: Sequence[Batch], rows: pl.DataFrame) -> NDArray[np.generic]:
    """The vectors (layers or blocks, rows, width) of a role, in the order of `rows`, which say the piece and place."""
    arrays = {i: _stored(one.values[name]) for i, one in enumerate(batches) if name in one.values}
    sizes = [arrays[i].shape[1] if i in arrays else 0 for i in range(len(batches))]
    starts = np.cumsum([0, *sizes])
    order = starts[rows["piece"].to_numpy()] + rows["place"].to_numpy()
    return np.concatenate(list(arrays.values()), axis=1)[:, order]


def _columns(name: str, batches: Sequence[Batch]) -> NDArray[np.generic]:
    """Attention (layers, samples, ...) of the samples of all batches."""
    arrays = {i: _stored(one.values[name]) for i, one in enumerate(batches) if name in one.values}
    first = next(iter(arrays.values()))
    width = max(array.shape[-1] for array in arrays.values())
    n_samples = sum(one.samples.height for one in batches)
    fill = dtype_named(next(one.values[name].dtype for one in batches if name in one.values)).fill
    out = np.full((first.shape[0], n_samples, *first.shape[2:-1], width), fill, first.dtype)
    start = 0
    for i, one in enumerate(batches):
        if i in arrays:
            out[:, start : start + one.samples.height, ..., : arrays[i].shape[-1]] = arrays[i]
        start += one.samples.height
    return out
