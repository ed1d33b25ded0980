"""The layout of an array: its chunks and shards follow from its shape and number type."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actstore.errors import ActstoreError, CorruptError
from actstore.format import CHUNK_BYTES, SHARD_BYTES, dtype_named

RESIDUAL = ("layer", "row", "feature")
ATTENTION = ("layer", "sample", "head", "query")
MASS = ("layer", "sample", "key")


@dataclass(frozen=True)
class ArraySpec:
    """Shape, number type and layout of one array, as the commit record states them."""

    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    dimensions: tuple[str, ...]

    @classmethod
    def of(cls, shape: Sequence[int], dtype: str, dimensions: tuple[str, ...]) -> "ArraySpec":
        """The layout of format 1: chunks of one layer and about 1 MB, shards of layer blocks of about 128 MB.

        >>> ArraySpec.of((33, 10_000, 4096), "bfloat16", RESIDUAL).chunks
        (1, 128, 4096)
        >>> ArraySpec.of((33, 10_000, 4096), "bfloat16", RESIDUAL).shards
        (1, 10112, 4096)
        """
        layers, rows, *inner = shape
        row_bytes = math.prod(inner) * dtype_named(dtype).stored.itemsize
        rows_per_chunk = max(1, min(rows, CHUNK_BYTES // row_bytes))
        rows_per_shard = math.ceil(rows / rows_per_chunk) * rows_per_chunk
        layers_per_shard = max(1, min(layers, SHARD_BYTES // (rows_per_shard * row_bytes)))
        return cls(
            shape=tuple(shape),
            dtype=dtype,
            chunks=(1, rows_per_chunk, *inner),
            shards=(layers_per_shard, rows_per_shard, *inner),
            dimensions=dimensions,
        )

    @classmethod
    def from_record(cls, name: str, record: dict[str, Any]) -> "ArraySpec":
        """The spec in a commit record; raises CorruptError unless it is the layout of format 1 for its shape."""
        try:
            shape = tuple(int(size) for size in record["shape"])
            spec = cls.of(shape, record["dtype"], tuple(record["dimensions"]))
            as_written = spec.record() == record
        except (KeyError, TypeError, ValueError, ZeroDivisionError, ActstoreError) as error:
            raise CorruptError(f"array {name}: not a layout of format 1 ({error})") from None
        if not as_written or min(shape) < 1:
            raise CorruptError(f"array {name}: not a layout of format 1: {record}")
        return spec

    def record(self) -> dict[str, Any]:
        """The spec as JSON."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "chunks": list(self.chunks),
            "shards": list(self.shards),
            "dimensions": list(self.dimensions),
        }

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk before compression."""
        return math.prod(self.chunks) * dtype_named(self.dtype).stored.itemsize
