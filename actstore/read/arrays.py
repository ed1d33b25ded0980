"""Arrays of a part: Zarr v3, sharded, blosc + crc32c.

Zarr writes the document of an array and reads all of it; its chunks are coded here, in threads, at a third of the time.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from functools import cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actstore.format import shards
from actstore.format.layout import ArraySpec
from actstore.format.names import dtype_named

Opened = Callable[[shards.Asked], AbstractContextManager[shards.Shard]]
THREADS = min(8, os.cpu_count() or 1)  # each holds one chunk; coding lets go of the interpreter


@cache
def pool() -> ThreadPoolExecutor:
    """The threads that code chunks; they stay, because new ones would have to get all of their memory anew."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="coder")


os.register_at_fork(after_in_child=pool.cache_clear)  # a child has none of the threads


def _opened(folder: Path, spec: ArraySpec, asked: shards.Asked) -> AbstractContextManager[shards.Shard]:
    return shards.opened(folder / spec.shard_of(min(asked.layers)), spec.chunks_per_shard)


def checksums(folder: Path, spec: ArraySpec) -> str:
    """The crc32c of every chunk as it stands in the shards: eight hexadecimal digits each, layer after layer."""
    found = []
    for layer in range(spec.shape[0]):
        with _opened(folder, spec, shards.Asked(frozenset([layer]), 0)) as shard:
            places = (spec.index_in_shard(layer, chunk) for chunk in range(spec.chunks_per_layer))
            found += [shard.checksum(place)[::-1].hex() for place in places]
    return "".join(found)


class ArrayReader:
    """Reads an array of a committed part as float32: each chunk once, after comparing it with the commit record.

    opened: opens a shard, where that does not lie in the part's folder.
    """

    def __init__(self, part: Path, name: str, spec: ArraySpec, opened: Opened | None = None) -> None:
        self.spec, self._opened = spec, opened or partial(_opened, part / name, spec)
        self._kind = dtype_named(spec.dtype)

    def take(
        self,
        layers: Sequence[int],
        places: NDArray[np.integer],
        outs: Sequence[NDArray[np.float32]],
        targets: NDArray[np.int64],
    ) -> None:
        """Put the vectors (d,) at `places`, in any order, of each of the layers, by index, into its out[targets]."""
        size = self.spec.chunks[1]
        order = np.argsort(places, kind="stable")
        places, targets = places[order], targets[order]
        edges = np.searchsorted(places, np.arange(self.spec.chunks_per_layer + 1) * size)

        def put(at: int, chunk: int, values: NDArray[np.generic]) -> None:
            chosen, out = slice(edges[chunk], edges[chunk + 1]), outs[at]
            source, target = _run(places[chosen] - chunk * size), _run(targets[chosen])
            if isinstance(target, slice):
                self._kind.decode(values[source], out[target])
            else:
                out[target] = self._kind.decode(values[source])

        self._visit(layers, np.flatnonzero(np.diff(edges)).tolist(), put)

    def layer(self, layer: int) -> NDArray[np.float32]:
        """Everything stored for the layer at index `layer`."""
        (found,) = self.layers([layer])
        return np.asarray(found)

    def layers(self, layers: Sequence[int]) -> NDArray[np.float32]:
        """Everything stored for each of the layers, by index."""
        size = self.spec.chunks[1]
        out = np.empty((len(layers), *self.spec.shape[1:]), np.float32)

        def put(at: int, chunk: int, values: NDArray[np.generic]) -> None:
            rows = out[at, chunk * size : (chunk + 1) * size]
            self._kind.decode(values[: len(rows)], rows)

        self._visit(layers, range(self.spec.chunks_per_layer), put)
        return out

    def _visit(
        self, layers: Sequence[int], chunks: Sequence[int], put: Callable[[int, int, NDArray[np.generic]], None]
    ) -> None:
        """Hand chunks (rows of the chunk, ...) of layers to `put`, with the place of the layer among `layers` and the
        number of the chunk; it does not keep them. Several at a time, shard after shard, each opened once.
        """
        places = sorted(range(len(layers)), key=layers.__getitem__)
        for _, own in groupby(places, lambda at: layers[at] // self.spec.shards[0]):
            asked = [(at, layers[at], chunk) for at in own for chunk in chunks]
            if asked:
                self._visit_shard(asked, put)

    def _visit_shard(
        self, asked: Sequence[tuple[int, int, int]], put: Callable[[int, int, NDArray[np.generic]], None]
    ) -> None:
        spec, todo, reading = self.spec, iter(asked), threading.Lock()

        def visit(shard: shards.Shard) -> None:
            buffer = np.empty(spec.chunk_bytes, np.uint8)  # one for all: fresh memory costs more than decoding
            values = buffer.view(self._kind.stored).reshape(spec.chunks[1:])
            while True:
                with reading:  # one thread at a time, in the order of the file: the disk reads ahead
                    at, layer, chunk = next(todo, (0, 0, None))
                    if chunk is None:
                        return
                    place, checksum = spec.index_in_shard(layer, chunk), spec.checksum(layer, chunk)
                    encoded = shard.read(place, checksum)
                shard.decode(place, encoded, checksum, buffer)
                put(at, chunk, values)

        layers = frozenset(layer for _, layer, _ in asked)
        share = len({(layer, chunk) for _, layer, chunk in asked}) / spec.chunks_in_shard(min(layers))
        with self._opened(shards.Asked(layers, share)) as shard:
            shard.expect([spec.index_in_shard(layer, chunk) for _, layer, chunk in asked])
            if len(asked) < 2:
                visit(shard)
                return
            visits = [pool().submit(visit, shard) for _ in range(min(THREADS, len(asked)))]
            wait(visits)  # all of them, also when one fails: they read from the open shard
            for done in visits:
                done.result()


def _run(index: NDArray[np.integer]) -> slice | NDArray[np.integer]:
    """A slice where these are consecutive numbers, which copies less."""
    if (np.diff(index) == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
