"""Records: JSON files that carry their own checksum and are created once."""

import json
from pathlib import Path
from typing import Any

from actstore import durable
from actstore.errors import CorruptError, FormatError
from actstore.format import FORMAT

Record = dict[str, Any]


def dump(record: Record) -> bytes:
    """A record as bytes, with the crc32c of everything else as its last field.

    >>> dump({"format": 1})
    b'{"format":1,"crc32c":"0fb4e832"}\\n'
    """
    body = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    checksum = durable.crc32c_of(body.encode())
    return f'{body[:-1]},"crc32c":"{checksum}"}}\n'.encode()


def load(path: Path) -> Record:
    """The record at `path`; raises FormatError for a newer format, CorruptError for anything damaged."""
    content = path.read_bytes()
    try:
        record = json.loads(content)
        found = record.pop("crc32c")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path}: not a complete record ({error}); restore it from a copy") from None
    newer = record.get("format")
    if isinstance(newer, int) and newer > FORMAT:
        raise FormatError(
            f"{path}: format {newer} is newer than this reader (format {FORMAT}); upgrade it with: "
            "pip install --upgrade actstore"
        )
    if dump(record) != content:
        raise CorruptError(f"{path}: its bytes differ from what was written (crc32c {found}); restore it from a copy")
    if record.get("format") != FORMAT:
        raise FormatError(f"{path}: format {record.get('format')!r} is not a format this reader knows")
    return dict(record)
