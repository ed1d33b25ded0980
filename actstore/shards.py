"""Shards: the files of an array, read chunk by chunk, each chunk compared with its committed checksum.

Plain Zarr would take a lost chunk for fill values and a stale copy of a chunk for data; this reader returns neither.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np

from actstore.errors import CorruptError

ENTRY = np.dtype([("offset", "<u8"), ("size", "<u8")])  # one chunk in the index of a shard
CHECKSUM = 4  # bytes: crc32c, little-endian, behind every chunk and behind the index


class Shard:
    """One open shard file: its index was read, its chunks are read on demand, from any thread."""

    def __init__(self, path: Path, descriptor: int, n_chunks: int) -> None:
        self.path, self._descriptor = path, descriptor
        size = n_chunks * ENTRY.itemsize
        start = os.fstat(descriptor).st_size - size - CHECKSUM
        encoded = self._read(start, size + CHECKSUM, "its index") if start >= 0 else b""
        if not _is_intact(encoded):
            raise self._corrupt("its index")
        self._index = np.frombuffer(encoded, ENTRY, count=n_chunks)
        self._data_bytes = start

    def checksum(self, chunk: int) -> bytes:
        """The crc32c stored behind a chunk."""
        offset, size = self._place(chunk)
        return self._read(offset + size - CHECKSUM, CHECKSUM, f"chunk {chunk}")

    def chunk(self, chunk: int, checksum: bytes, n_bytes: int) -> bytes:
        """The decoded bytes of a chunk; raises CorruptError unless they are the committed ones."""
        offset, size = self._place(chunk)
        encoded = self._read(offset, size, f"chunk {chunk}")
        # blosc states the decoded size in bytes 4..8: it is compared before that much memory is asked for
        decoded_bytes = int.from_bytes(encoded[4:8], "little")
        if encoded[-CHECKSUM:] != checksum or not _is_intact(encoded) or decoded_bytes != n_bytes:
            raise self._corrupt(f"chunk {chunk}")
        try:
            return bytes(numcodecs.blosc.decompress(encoded[:-CHECKSUM]))
        except RuntimeError as error:
            raise self._corrupt(f"chunk {chunk}") from error

    def _place(self, chunk: int) -> tuple[int, int]:
        offset, size = (int(number) for number in self._index[chunk])
        if offset + size > self._data_bytes:  # a chunk that was never written has 2**64 - 1
            raise self._corrupt(f"chunk {chunk}")
        return offset, size

    def _read(self, offset: int, size: int, what: str) -> bytes:
        content = os.pread(self._descriptor, size, offset)
        if len(content) != size:
            raise self._corrupt(what)
        return content

    def _corrupt(self, what: str) -> CorruptError:
        return CorruptError(
            f"{self.path}: {what} differs from what was committed (crc32c); run actstore verify, restore it from a copy"
        )


@contextmanager
def opened(path: Path, n_chunks: int) -> Iterator[Shard]:
    """A shard of `n_chunks` chunks, for reading; raises CorruptError if it is missing or its index is damaged."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise CorruptError(f"{path}: committed, but missing; restore it from a copy") from None
    try:
        yield Shard(path, descriptor, n_chunks)
    except OSError as error:
        raise CorruptError(f"{path}: cannot be read ({error.strerror or error}); run actstore verify") from error
    finally:
        os.close(descriptor)


def _is_intact(encoded: bytes) -> bool:
    stored = int.from_bytes(encoded[-CHECKSUM:], "little")
    return len(encoded) > CHECKSUM and google_crc32c.value(encoded[:-CHECKSUM]) == stored
