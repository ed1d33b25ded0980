"""The layout of an array: its chunks and shards follow from its shape and number type."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from actstore.errors import ActstoreError
from actstore.format.names import CHUNK_BYTES, SHARD_BYTES, dtype_named

RESIDUAL = ("layer", "row", "feature")
KEYS = ("block", "row", "feature")  # and values
ATTENTION = ("layer", "sample", "head", "query")
MASS = ("layer", "sample", "key")
VECTORS = {"residual": RESIDUAL, "keys": KEYS, "values": KEYS}  # kinds of arrays with one vector for each row of a role

LARGEST_CHUNK = 2**31 - 17  # what blosc takes: its sizes are int32, less a header


class ArraySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape, number type and layout of one array and the crc32c of its chunks, as the commit record states them."""

    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    dimensions: tuple[str, ...]
    chunk_crc32c: str = ""  # eight digits for each chunk, layer after layer; empty before it is written

    @classmethod
    def of(cls, shape: Sequence[int], dtype: str, dimensions: tuple[str, ...]) -> "ArraySpec":
        """The layout of format 1: chunks of one layer and about 1 MB, shards of layer blocks of about 128 MB.

        >>> ArraySpec.of((33, 10_000, 4096), "bfloat16", RESIDUAL).chunks
        (1, 128, 4096)
        >>> ArraySpec.of((33, 10_000, 4096), "bfloat16", RESIDUAL).shards
        (1, 10112, 4096)
        """
        if len(shape) < 2 or min(shape) < 1:
            raise ActstoreError(f"shape {tuple(shape)} has no layers, no rows or an empty axis")
        layers, rows, *inner = shape
        row_bytes = math.prod(inner) * dtype_named(dtype).stored.itemsize
        rows_per_chunk = max(1, min(rows, CHUNK_BYTES // row_bytes))
        if rows_per_chunk * row_bytes > LARGEST_CHUNK:
            raise ActstoreError(f"shape {tuple(shape)} has rows of {row_bytes} bytes; a chunk holds {LARGEST_CHUNK}")
        rows_per_shard = -(-rows // rows_per_chunk) * rows_per_chunk
        layers_per_shard = max(1, min(layers, SHARD_BYTES // (rows_per_shard * row_bytes)))
        return cls(
            shape=tuple(shape),
            dtype=dtype,
            chunks=(1, rows_per_chunk, *inner),
            shards=(layers_per_shard, rows_per_shard, *inner),
            dimensions=dimensions,
        )

    def problem(self) -> str | None:
        """Why this is not the layout of format 1 for its shape, or None."""
        try:
            layout = _layout_of(self.shape, self.dtype, self.dimensions)
            checksums = bytes.fromhex(self.chunk_crc32c)
        except (ValueError, ActstoreError) as error:
            return str(error)
        if (self.chunks, self.shards) != (layout.chunks, layout.shards):
            return f"chunks {self.chunks} in shards {self.shards}, not {layout.chunks} in {layout.shards}"
        if len(checksums) != 4 * self.n_chunks or checksums.hex() != self.chunk_crc32c:
            return f"no eight digits of crc32c for each of {self.n_chunks} chunks"
        return None

    def has(self, dimensions: tuple[str, ...]) -> bool:
        """Whether these are the axes."""
        return self.dimensions == dimensions and len(self.shape) == len(dimensions)

    def record(self) -> dict[str, Any]:
        """The spec as JSON."""
        return msgspec.structs.asdict(self)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk before compression."""
        return math.prod(self.chunks) * dtype_named(self.dtype).stored.itemsize

    @property
    def chunks_per_layer(self) -> int:
        """How many chunks one layer is cut into."""
        return self.shards[1] // self.chunks[1]

    @property
    def chunks_per_shard(self) -> int:
        """How many chunks the index of a shard lists; those beyond the last layer are absent."""
        return self.shards[0] * self.chunks_per_layer

    def chunks_in_shard(self, layer: int) -> int:
        """How many chunks the shard that holds a layer has."""
        first = layer // self.shards[0] * self.shards[0]
        return min(self.shards[0], self.shape[0] - first) * self.chunks_per_layer

    @property
    def n_chunks(self) -> int:
        """How many chunks the array has."""
        return self.shape[0] * self.chunks_per_layer

    def shard_of(self, layer: int) -> str:
        """The shard that holds a layer, as a path inside the array's folder."""
        return _shard(layer // self.shards[0], len(self.shape))

    def paths(self) -> tuple[str, ...]:
        """The files of the array, inside its folder."""
        return _paths_of(-(-self.shape[0] // self.shards[0]), len(self.shape))

    def index_in_shard(self, layer: int, chunk: int) -> int:
        """Where the index of its shard lists chunk number `chunk` of a layer."""
        return layer % self.shards[0] * self.chunks_per_layer + chunk

    def checksum(self, layer: int, chunk: int) -> bytes:
        """The committed crc32c of chunk number `chunk` of a layer, as it stands behind the chunk."""
        start = 8 * (layer * self.chunks_per_layer + chunk)
        return bytes.fromhex(self.chunk_crc32c[start : start + 8])[::-1]


@lru_cache(maxsize=256)  # the parts of a store have mostly the same arrays
def _layout_of(shape: tuple[int, ...], dtype: str, dimensions: tuple[str, ...]) -> ArraySpec:
    return ArraySpec.of(shape, dtype, dimensions)


@lru_cache(maxsize=256)
def _paths_of(n_shards: int, n_axes: int) -> tuple[str, ...]:
    return ("zarr.json", *(_shard(number, n_axes) for number in range(n_shards)))


def _shard(number: int, n_axes: int) -> str:
    return f"c/{number}{'/0' * (n_axes - 1)}"


def dimensions_of(array: str) -> tuple[str, ...]:
    """The axes of an array of a part.

    >>> dimensions_of("residual/eoi"), dimensions_of("attention/mass")
    (('layer', 'row', 'feature'), ('layer', 'sample', 'key'))
    """
    kind = array.partition("/")[0]
    if kind in VECTORS:
        return VECTORS[kind]
    return MASS if array == "attention/mass" else ATTENTION
