"""Records: JSON files that carry their own checksum and are created once."""

import json
import os
from pathlib import Path
from typing import Any

from actstore.errors import CorruptError, FormatError
from actstore.format.names import FORMAT, RECORD_BYTES
from actstore.storage import local

Record = dict[str, Any]


def dump(record: Record) -> bytes:
    """A record as bytes, with the crc32c of everything else as its last field.

    >>> dump({"format": 1})
    b'{"format":1,"crc32c":"0fb4e832"}\\n'
    """
    rest = {name: value for name, value in record.items() if name != "crc32c"}
    body = json.dumps(rest, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    checksum = local.crc32c_of(body.encode())
    return f'{body[:-1]},"crc32c":"{checksum}"}}\n'.encode()


def load(path: Path, newest: int = FORMAT) -> Record:
    """The record at `path`, crc32c included, of a format up to `newest`.

    Raises FormatError for a newer format, CorruptError for a damaged record.
    """
    return parse(content_of(path, RECORD_BYTES), path, newest)


def parse(content: bytes, path: Path | str, newest: int = FORMAT) -> Record:
    """The record in these bytes, which are at `path`; raises as `load` does."""
    try:
        record = json.loads(content)
        found = record.get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{path}: not a complete record ({error}); restore it from a copy") from None
    if isinstance(found, int) and found > newest:
        raise FormatError(
            f"{path}: format {found} is newer than this reader (format {newest}); upgrade it with: "
            "pip install --upgrade actstore"
        )
    if not _is_intact(record, content):
        raise CorruptError(f"{path}: its bytes differ from what was written (crc32c); restore it from a copy")
    if isinstance(found, bool) or found not in range(FORMAT, newest + 1):
        raise FormatError(f"{path}: format {found!r} is not a format this reader knows")
    return dict(record)


def content_of(path: Path, most: int) -> bytes:
    """The bytes of a plain file of at most `most` bytes; a pipe is not waited for. Raises CorruptError for another."""
    with local.plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise CorruptError(f"{path}: {size} bytes; a record has at most {most}")
        return file.read()


def _is_intact(record: Record, content: bytes) -> bool:
    try:
        return dump(record) == content
    except (ValueError, RecursionError):  # a NaN or half a surrogate pair: nothing that was ever written
        return False
