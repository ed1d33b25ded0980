"""Arrays of a part: Zarr v3, sharded, blosc + crc32c."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actstore import shards
from actstore.batch import Layered
from actstore.format import dtype_named
from actstore.layout import ArraySpec

THREADS = min(4, os.cpu_count() or 1)  # each holds one chunk; decoding lets go of the interpreter


def write(part: Path, name: str, values: Layered, dtype: str, dimensions: tuple[str, ...]) -> ArraySpec:
    """Write one array of a part, some layers at a time; floats are rounded to `dtype`."""
    import zarr  # reading does not need it, and it takes longer to import than a query runs
    from zarr.codecs import BloscCodec, Crc32cCodec
    from zarr.storage import LocalStore

    spec = ArraySpec.of(values.shape, dtype, dimensions)
    kind = dtype_named(dtype)
    # A store of its own: with a name zarr would write group documents too, all at once, and when one of those writes
    # fails the others go on in their threads and bring back the folder that the draft has just removed.
    array = zarr.create_array(
        LocalStore(part / name),
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
    for start in range(0, spec.shape[0], spec.shards[0]):  # whole shards, one at a time: no second copy of it all
        array[start : start + spec.shards[0]] = kind.encode(values[start : start + spec.shards[0]])
    return replace(spec, chunk_crc32c=checksums(part / name, spec))


def checksums(folder: Path, spec: ArraySpec) -> str:
    """The crc32c of every chunk as it stands in the shards: eight hexadecimal digits each, layer after layer."""
    found = []
    for layer in range(spec.shape[0]):
        with shards.opened(folder / spec.shard_of(layer), spec.chunks_per_shard) as shard:
            places = (spec.index_in_shard(layer, chunk) for chunk in range(spec.chunks_per_layer))
            found += [shard.checksum(place)[::-1].hex() for place in places]
    return "".join(found)


class ArrayReader:
    """Reads an array of a committed part as float32: each chunk once, after comparing it with the commit record."""

    def __init__(self, part: Path, name: str, spec: ArraySpec) -> None:
        self.folder, self.spec = part / name, spec
        self._kind = dtype_named(spec.dtype)

    def take(
        self, layer: int, places: NDArray[np.integer], out: NDArray[np.float32], targets: NDArray[np.int64]
    ) -> None:
        """Put the vectors (d,) at `places`, in any order, of the layer at index `layer` into out[targets]."""
        size = self.spec.chunks[1]
        order = np.argsort(places, kind="stable")
        places, targets = places[order], targets[order]
        edges = np.searchsorted(places, np.arange(self.spec.chunks_per_layer + 1) * size)

        def put(chunk: int, values: NDArray[np.generic]) -> None:
            chosen = slice(edges[chunk], edges[chunk + 1])
            out[targets[chosen]] = self._kind.decode(values[places[chosen] - chunk * size])

        self._visit(layer, np.flatnonzero(np.diff(edges)).tolist(), put)

    def layer(self, layer: int) -> NDArray[np.float32]:
        """Everything stored for the layer at index `layer`."""
        size = self.spec.chunks[1]
        out = np.empty(self.spec.shape[1:], np.float32)

        def put(chunk: int, values: NDArray[np.generic]) -> None:
            rows = out[chunk * size : (chunk + 1) * size]
            rows[...] = self._kind.decode(values[: len(rows)])

        self._visit(layer, range(self.spec.chunks_per_layer), put)
        return out

    def _visit(self, layer: int, chunks: Sequence[int], put: Callable[[int, NDArray[np.generic]], None]) -> None:
        """Hand each chunk (rows of the chunk, ...) of a layer to `put`, several at a time."""
        with shards.opened(self.folder / self.spec.shard_of(layer), self.spec.chunks_per_shard) as shard:

            def visit(chunk: int) -> None:
                content = shard.chunk(
                    self.spec.index_in_shard(layer, chunk), self.spec.checksum(layer, chunk), self.spec.chunk_bytes
                )
                put(chunk, np.frombuffer(content, self._kind.stored).reshape(self.spec.chunks[1:]))

            if len(chunks) == 1:
                visit(chunks[0])
                return
            with ThreadPoolExecutor(THREADS) as pool:
                for _ in pool.map(visit, chunks):
                    pass
