"""Shards: the files of an array, written and read chunk by chunk, each chunk compared with its committed checksum.

Plain Zarr would take a lost chunk for fill values and a stale copy of a chunk for data; this reader returns neither.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from actstore.errors import CorruptError, refused
from actstore.storage import local

ENTRY = np.dtype([("offset", "<u8"), ("size", "<u8")])  # one chunk in the index of a shard
ABSENT = 2**64 - 1  # offset and size of a chunk that was never written
CHECKSUM = 4  # bytes: crc32c, little-endian, behind every chunk and behind the index


class Asked(NamedTuple):
    """What is going to be read of a shard: layers by their index, and a share of its chunks, [0, 1]."""

    layers: frozenset[int]
    share: float


class Source(Protocol):
    """Where the bytes of a shard lie."""

    def read(self, start: int, size: int) -> bytes:
        """That stretch, or less of it where the shard ends."""

    def expect(self, stretches: Sequence[tuple[int, int]]) -> None:
        """These stretches [start, end) are going to be read, in this order."""


class _File:
    """An open file, from which the system reads ahead."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, start: int, size: int) -> bytes:
        """See Source."""
        return os.pread(self._descriptor, size, start)

    def expect(self, stretches: Sequence[tuple[int, int]]) -> None:
        """See Source."""


class Shard:
    """One open shard of `n_bytes`: its index was read, its chunks are read on demand, from any thread.

    path: how it is called where it is damaged.
    """

    def __init__(self, path: Path | str, source: Source, n_bytes: int, n_chunks: int) -> None:
        self.path, self._source = path, source
        size = n_chunks * ENTRY.itemsize
        start = n_bytes - size - CHECKSUM
        encoded = self._read(start, size + CHECKSUM, "its index") if start >= 0 else b""
        if not _is_intact(encoded):
            raise self._corrupt("its index")
        self._index = np.frombuffer(encoded, ENTRY, count=n_chunks)
        self._data_bytes = start

    def expect(self, chunks: Sequence[int]) -> None:
        """These chunks are going to be read, in this order."""
        places = map(self._place, chunks)
        self._source.expect([(offset, offset + size) for offset, size in places])

    def checksum(self, chunk: int) -> bytes:
        """The crc32c stored behind a chunk."""
        offset, size = self._place(chunk)
        return self._read(offset + size - CHECKSUM, CHECKSUM, f"chunk {chunk}")

    def read(self, chunk: int, checksum: bytes) -> bytes:
        """The encoded bytes of a chunk; raises CorruptError unless the committed checksum stands behind them."""
        offset, size = self._place(chunk)
        encoded = self._read(offset, size - CHECKSUM, f"chunk {chunk}")
        if self.checksum(chunk) != checksum:
            raise self._corrupt(f"chunk {chunk}")
        return encoded

    def decode(self, chunk: int, encoded: bytes, checksum: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a chunk into `out`, which it fills; raises CorruptError unless its bytes are the committed ones."""
        # blosc states both sizes, in bytes 4..8 and 12..16, and believes them: it would write and read that far
        decoded_bytes, encoded_bytes = (int.from_bytes(encoded[start : start + 4], "little") for start in (4, 12))
        if _crc32c(encoded) != checksum or (decoded_bytes, encoded_bytes) != (out.nbytes, len(encoded)):
            raise self._corrupt(f"chunk {chunk}")
        try:
            numcodecs.blosc.decompress(encoded, out)
        except RuntimeError as error:
            raise self._corrupt(f"chunk {chunk}") from error

    def _place(self, chunk: int) -> tuple[int, int]:
        offset, size = (int(number) for number in self._index[chunk])
        if size <= CHECKSUM or offset + size > self._data_bytes:  # so has a chunk that is absent
            raise self._corrupt(f"chunk {chunk}")
        return offset, size

    def _read(self, offset: int, size: int, what: str) -> bytes:
        content = self._source.read(offset, size)
        if len(content) != size:
            raise self._corrupt(what)
        return content

    def _corrupt(self, what: str) -> CorruptError:
        return CorruptError(
            f"{self.path}: {what} differs from what was committed (crc32c); "
            "run actstore verify, then actstore repair, or restore it from a copy"
        )


@contextmanager
def opened(path: Path, n_chunks: int) -> Iterator[Shard]:
    """A shard of `n_chunks` chunks, for reading; raises CorruptError if it is missing, no plain file, or its index is
    damaged."""
    try:
        with local.plain(path) as file:
            descriptor = file.fileno()
            yield Shard(path, _File(descriptor), os.fstat(descriptor).st_size, n_chunks)
    except FileNotFoundError:
        raise CorruptError(f"{path}: committed, but missing; run actstore repair, or restore it from a copy") from None
    except OSError as error:
        if refused(error):
            raise
        raise CorruptError(f"{path}: cannot be read ({error.strerror or error}); run actstore verify") from error


def write(path: Path, chunks: Iterable[bytes], n_chunks: int) -> None:
    """Write a shard with room for `n_chunks`: these chunks, as encode() makes them, in order; the others are absent."""
    index = np.full(n_chunks, ABSENT, "<u8").repeat(2).view(ENTRY)
    path.parent.mkdir(parents=True)
    with path.open("xb") as file:
        for place, encoded in enumerate(chunks):
            index[place] = file.tell(), len(encoded) + CHECKSUM
            file.write(encoded)
            file.write(_crc32c(encoded))
        file.write(index.tobytes())
        file.write(_crc32c(index.tobytes()))


def encode(values: NDArray[np.generic]) -> bytes:
    """The blosc bytes of a chunk, one block: blosc's own choice of block makes bfloat16 an eighth larger."""
    blosc = numcodecs.blosc
    return bytes(blosc.compress(values, b"zstd", 1, blosc.SHUFFLE, values.nbytes, values.itemsize))


def _crc32c(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(CHECKSUM, "little")


def _is_intact(encoded: bytes) -> bool:
    return len(encoded) > CHECKSUM and _crc32c(encoded[:-CHECKSUM]) == encoded[-CHECKSUM:]
