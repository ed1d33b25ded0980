"""Arrays of a part: Zarr v3, sharded, blosc + crc32c."""

from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from actstore.errors import CorruptError
from actstore.format import dtype_named
from actstore.layout import ArraySpec

STREAMING_FRACTION = 0.1  # beyond a tenth of the rows one read of all is cheaper than many of some


def write(part: Path, name: str, values: NDArray[np.generic], dtype: str, dimensions: tuple[str, ...]) -> ArraySpec:
    """Write one array of a part, whole; floats are rounded to `dtype`."""
    spec = ArraySpec.of(values.shape, dtype, dimensions)
    kind = dtype_named(dtype)
    array = zarr.create_array(
        LocalStore(part),
        name=name,
        shape=spec.shape,
        dtype=kind.stored,
        chunks=spec.chunks,
        shards=spec.shards,
        fill_value=kind.fill,
        compressors=[
            # blosc's own choice of block loses most of the gain on bfloat16 (1.28 instead of 1.45)
            BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", blocksize=spec.chunk_bytes),
            Crc32cCodec(),
        ],
        dimension_names=dimensions,
        attributes={"actstore": {"dtype": dtype}},
        config={"write_empty_chunks": True},
    )
    array[...] = kind.encode(values)
    return spec


class ArrayReader:
    """Reads an array of a committed part, as stored numbers or as float32."""

    def __init__(self, part: Path, name: str, spec: ArraySpec) -> None:
        self.name, self.spec = name, spec
        self._array = zarr.open_array(LocalStore(part, read_only=True), path=name, mode="r")
        if self._array.shape != spec.shape or self._array.dtype != dtype_named(spec.dtype).stored:
            raise CorruptError(f"{part / name}: shape or dtype differs from the commit record; run actstore verify")

    def rows(self, layer: int, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, d) at ascending, distinct `places` of the layer at index `layer`; each chunk is read once."""
        decode = dtype_named(self.spec.dtype).decode
        count, size = self.spec.shape[1], self.spec.chunks[1]
        if len(places) > STREAMING_FRACTION * count:
            return decode(self._read(layer, 0, count)[places])
        starts = np.unique(places // size) * size
        taken = [
            self._read(layer, int(start), int(min(start + size, count)))[
                places[np.searchsorted(places, start) : np.searchsorted(places, start + size)] - start
            ]
            for start in starts
        ]
        return decode(np.concatenate(taken))

    def layer(self, layer: int) -> NDArray[np.float32]:
        """Everything stored for the layer at index `layer`."""
        return dtype_named(self.spec.dtype).decode(self._read(layer, 0, self.spec.shape[1]))

    def _read(self, layer: int, start: int, stop: int) -> NDArray[np.generic]:
        try:
            return np.asarray(self._array[layer, start:stop])
        except (ValueError, RuntimeError, OSError) as error:
            raise CorruptError(
                f"{self.name}: layer index {layer} cannot be read ({error}); run actstore verify"
            ) from error
