"""Files of a user's own tables: CSV, JSON lines and Parquet, read so that no value becomes another one.

A column's type is that of all its values, not of the first of them. CSV says no types: what is an id, a label, a path
or words stays text, and another column becomes numbers only where that makes no two of its values one.
"""

import csv
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path

import polars as pl
import pyarrow as pa

from actstore.errors import ActstoreError
from actstore.format.given import suffix_of
from actstore.storage import local

__all__ = ["FORMATS", "read_table"]

_WORDS = re.compile(
    "(?:.*_)?(?:id|ids|label|labels|class|category|split|image|file|filename|path|name|prompt|question|text"
    "|answer|answers|caption|captions)"
)
_INTEGER = "0|-?[1-9][0-9]*"
_DECIMAL = r"-?(?:(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+][0-9]+)?"  # 1e3 is a name, 1e+3 a number
_TYPES: tuple[tuple[str, type[pl.DataType]], ...] = (
    (_INTEGER, pl.Int64),
    (f"{_DECIMAL}|nan|NaN|-?inf", pl.Float64),
)
_BOOLEANS = ({"true", "false"}, {"True", "False"})
_SPREADSHEET = "save a spreadsheet as CSV: commas between, UTF-8"
_OTHERS = {  # how files begin that are called a table
    b"<!doctype html": "it is a web page; save the table itself, or copy it into a spreadsheet",
    b"<html": "it is a web page; save the table itself, or copy it into a spreadsheet",
    b"pk\x03\x04": f"it is a spreadsheet or an archive under another name; {_SPREADSHEET}",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file; fetch it with: git lfs pull",
}


def read_table(path: Path, words: Collection[str] = ()) -> pl.DataFrame:
    """The table in a file; columns called as one of `words` are text in CSV, whatever they are called.

    ActstoreError for what cannot be read, or not without changing it.
    """
    if (suffix := suffix_of(path)) not in FORMATS:
        remedy = "write a record a line, as .jsonl" if suffix == ".json" else _SPREADSHEET
        told = "it is a folder" if path.is_dir() else f"a table is one of {', '.join(FORMATS)}; {remedy}"
        raise ActstoreError(f"{path}: {told}")
    try:
        data = local.content(path).removeprefix(BOM_UTF8)
        start = data[:512].lstrip().lower()
        if other := next((said for mark, said in _OTHERS.items() if start.startswith(mark)), None):
            raise ActstoreError(other)
        return FORMATS[suffix](data, words)
    except FileNotFoundError:
        raise ActstoreError(f"table {path} does not exist") from None
    except (OSError, ActstoreError, pl.exceptions.PolarsError) as error:
        raise ActstoreError(f"{path}: {error}") from None


def _parquet(data: bytes, _: Collection[str]) -> pl.DataFrame:
    return pl.read_parquet(BytesIO(data))


def _csv(data: bytes, words: Collection[str]) -> pl.DataFrame:
    names = _header(data)
    if not names:
        raise ActstoreError("it is empty: a table has a line of names")
    table = pl.read_csv(data, infer_schema=False)
    table.columns = names
    table = table.filter(~pl.all_horizontal(pl.all().is_null()))  # empty lines
    return table.with_columns(
        _typed(column) for column in table if column.name not in words and not _WORDS.fullmatch(column.name.lower())
    )


def _header(data: bytes) -> list[str]:
    """The names in the first line of CSV, once every line has as many fields as it; ActstoreError for other lines.

    A quote that is none, or a line that is cut, would make several lines one, or leave NULL where they end.
    """
    lines = csv.reader(TextIOWrapper(BytesIO(data), "utf-8", newline=""), strict=True)
    try:
        names = next(lines, [])
        if len(names) == 1 and (other := re.search("[;\t|]", names[0])):
            raise ActstoreError(
                f"its first line has {other[0]!r} between names, where commas belong; save it with those"
            )
        for fields in lines:
            if fields and len(fields) != len(names):
                raise ActstoreError(
                    f"line {lines.line_num} ends a row of {len(fields)} fields, the header has {len(names)}: "
                    'is a comma, or a " (written "" between two more), missing before it?'
                )
    except UnicodeDecodeError as error:
        raise ActstoreError(f"it is not in UTF-8 ({error}); save it so") from None
    except csv.Error as error:
        raise ActstoreError(f"line {lines.line_num} is no CSV ({error})") from None
    for place, name in enumerate(names, start=1):
        if not name:
            raise ActstoreError(
                f"column {place} has no name; the first line names every column (of pandas: index=False)"
            )
        if names.count(name) > 1:
            raise ActstoreError(f"two columns are called '{name}'")
    return names


def _typed(column: pl.Series) -> pl.Series:
    """The texts as numbers or booleans where all of them are, and no two become one.

    >>> [_typed(pl.Series(texts)).to_list() for texts in (["1.50", "2"], ["1", "01"], ["1.5", "1.50"], ["1e3", "2e7"])]
    [[1.5, 2.0], ['1', '01'], ['1.5', '1.50'], ['1e3', '2e7']]
    """
    found = column.drop_nulls()
    if not len(found):
        return column
    if any(set(found) <= words for words in _BOOLEANS):
        return column.str.to_lowercase() == "true"
    for pattern, kind in _TYPES:
        if found.str.contains(f"^(?:{pattern})$").all():
            made = column.cast(kind, strict=False)
            if made.null_count() == column.null_count() and made.n_unique() == column.n_unique():
                return made
    return column


def _json_lines(data: bytes, _: Collection[str]) -> pl.DataFrame:
    if data.lstrip().startswith(b"["):
        raise ActstoreError("it is one list of JSON; write a record a line (jq -c '.[]')")
    rows = [_object(number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip()]
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame([_column(name, [row.get(name) for row in rows]) for name in names])


def _object(number: int, line: bytes) -> dict[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ActstoreError(f"line {number}: {error}; perhaps its download was cut") from None
    if not isinstance(found, dict):
        raise ActstoreError(f'line {number} is no object such as {{"image": "1.jpg"}}: {str(found)[:40]!r}')
    return found


def _column(name: str, values: Sequence[object]) -> pl.Series:
    """Values of JSON as a column: of one type if they are, as text if they are texts, numbers and booleans.

    >>> [_column("a", values).to_list() for values in ([None, 7, "dog"], [1, 2.5], [[], ["x"]], [{"b": 1}, {"c": 2}])]
    [[None, '7', 'dog'], [1.0, 2.5], [[], ['x']], [{'b': 1, 'c': None}, {'b': None, 'c': 2}]]
    """
    kinds = {type(value) for value in values if value is not None}
    scalar = kinds <= {str, bool, int, float}
    try:
        if len(kinds) > 1 and kinds != {int, float}:
            raise TypeError(f"values are of several kinds: {', '.join(sorted(kind.__name__ for kind in kinds))}")
        made = pl.Series(name, pa.array(values))
    except (ArithmeticError, TypeError, ValueError) as error:
        if not scalar:
            raise ActstoreError(f"column '{name}': {error}; write them alike") from None
        made = pl.Series(name, [_text(value) for value in values], pl.String)
    if made.dtype == pl.Struct([]):
        raise ActstoreError(f"column '{name}' holds objects without keys; leave it out")
    empty: dict[pl.DataType, pl.DataType] = {pl.Null(): pl.String(), pl.List(pl.Null): pl.List(pl.String)}
    return made.cast(empty.get(made.dtype, made.dtype))


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


FORMATS: dict[str, Callable[[bytes, Collection[str]], pl.DataFrame]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}
