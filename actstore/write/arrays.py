"""Arrays of a part, written: Zarr v3, sharded, blosc + crc32c."""

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from actstore.format import shards
from actstore.format.layout import ArraySpec
from actstore.format.names import DType, dtype_named
from actstore.read.arrays import checksums, pool
from actstore.write.batch import Layered


def write(part: Path, name: str, values: Layered, dtype: str, dimensions: tuple[str, ...]) -> ArraySpec:
    """Write one array of a part, a shard's layers at a time; floats are rounded to `dtype`."""
    spec, kind = ArraySpec.of(values.shape, dtype, dimensions), dtype_named(dtype)
    _write_document(part / name, spec, kind)
    step, padded = spec.shards[0], spec.shards[1]
    for start in range(0, spec.shape[0], step):
        chunks = _chunks(kind.encode(values[start : start + step]), spec.chunks[1], padded, kind)
        path = part / name / spec.shard_of(start)
        shards.write(path, pool().map(shards.encode, chunks), spec.chunks_per_shard)
    return msgspec.structs.replace(spec, chunk_crc32c=checksums(part / name, spec))


def _write_document(folder: Path, spec: ArraySpec, kind: DType) -> None:
    """zarr.json: what makes the shards a Zarr array."""
    import zarr  # reading does not need it, and it takes longer to import than a query runs
    from zarr.codecs import BloscCodec, Crc32cCodec
    from zarr.storage import LocalStore

    # A store of its own: with a name zarr would write group documents too, all at once, and when one of those writes
    # fails the others go on in their threads and bring back the folder that the draft has just removed.
    zarr.create_array(
        LocalStore(folder),
        shape=spec.shape,
        dtype=kind.stored,
        chunks=spec.chunks,
        shards=spec.shards,
        fill_value=kind.fill,
        compressors=[
            BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", blocksize=spec.chunk_bytes),
            Crc32cCodec(),
        ],
        dimension_names=spec.dimensions,
        attributes={"actstore": {"dtype": kind.name}},
    )


def _chunks(values: NDArray[np.generic], size: int, padded: int, kind: DType) -> list[NDArray[np.generic]]:
    """Layer after layer in chunks of `size` rows; fill values make the last one of each layer whole."""
    found = []
    for layer in values:
        found += [np.ascontiguousarray(layer[start : start + size]) for start in range(0, padded, size)]
        short = found[-1]
        if len(short) < size:
            found[-1] = np.full((size, *short.shape[1:]), kind.fill, kind.stored)
            found[-1][: len(short)] = short
    return found
