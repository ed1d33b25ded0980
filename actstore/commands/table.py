"""Tables as text: how a frame is written for a person, a pipe or a file."""

import json
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

import click

from actstore.commands.outputs import written
from actstore.errors import ActstoreError, nearest, told, visible
from actstore.format.given import suffix_of
from actstore.storage import local

if TYPE_CHECKING:
    import polars as pl

WIDEST = 60  # characters of a cell on a terminal
NARROW = 24  # of a column before those in the middle are left out: longer text is folded
JSON = ("json", "jsonl")
COLUMNS = "actstore.columns"  # where the context of a command has those that were chosen
PAIR = 2  # columns, of names and what is said of them: there is room for all of it


def render(
    frame: "pl.DataFrame", style: str | None = None, output: Path | None = None, json_columns: Collection[str] = ()
) -> None:
    """Write a frame to `output` or standard output as table, records, csv, json, jsonl, parquet or markdown.

    json_columns: columns whose text is JSON, which stands in json and jsonl as what it says and not as text.
    A file is written whole or not at all, and never inside a store (ActstoreError).
    Without a style: what the file's suffix says, else a table on a terminal and JSON lines in a pipe.
    """
    chosen = resolve(style, output)
    frame = _selected(frame)
    write = partial(_write, chosen, [name for name in json_columns if name in frame.columns])
    if output is None:
        text = BytesIO()  # python itself writes to the pipe: it knows what to do when the reader has gone
        write(frame, text)
        standard = _standard()
        with local.naming(Path("standard output")):
            standard.buffer.write(text.getbuffer())
            standard.flush()
        return
    with written(output) as draft, draft.open("wb") as file:
        write(frame, file)


def _selected(frame: "pl.DataFrame") -> "pl.DataFrame":
    """The columns of --columns, where a command was given it."""
    context = click.get_current_context(silent=True)
    names: list[str] | None = context.meta.get(COLUMNS) if context else None
    if names is None:
        return frame
    for place, name in enumerate(names):
        if name not in frame.columns:
            among = f"the table has {', '.join(frame.columns)}"
            raise ActstoreError(f"--columns: no column '{name}'{nearest(name, frame.columns, among)}")
        if name in names[:place]:
            raise ActstoreError(f"--columns: '{name}' is there twice")
    return frame.select(names)


def _write(style: str, json_columns: Collection[str], frame: "pl.DataFrame", file: IO[bytes]) -> None:
    """Write a frame in a style, binary values as hexadecimal digits; ActstoreError for what the style cannot hold."""
    import polars as pl  # every command imports this file for its options, most of them before they need polars

    from actstore.format.tables import kinds

    blobs = [name for name, kind in frame.schema.items() if kind == pl.Binary]
    deep = [
        name
        for name, kind in frame.schema.items()
        if name not in blobs and any(one == pl.Binary for one in kinds(kind))
    ]
    if deep and style in JSON:
        raise ActstoreError(f"--format {style} holds no binary values inside those of column '{deep[0]}'; cast it")
    shown = frame if style == "parquet" else frame.with_columns(pl.col(blobs).bin.encode("hex"))
    try:
        if json_columns and style in JSON:
            _opened(style, json_columns, shown, file)
        else:
            _WRITERS[style](shown, file)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        if full := told(error):
            raise full from None
        line = str(error).strip().partition("\n")[0]
        raise ActstoreError(f"--format {style} cannot hold this table ({line}); cast its columns: x::varchar") from None


def resolve(style: str | None, output: Path | None) -> str:
    """The style that is meant: the one given, else what the file's suffix or the terminal says."""
    if style is not None:
        return style
    if output is not None:
        return SUFFIXES.get(suffix_of(output), "jsonl")
    return "table" if _standard().isatty() else "jsonl"


def _standard() -> TextIO:
    if sys.stdout is None:
        raise ActstoreError("standard output is closed; write to a file: -o FILE")
    return sys.stdout


def _table(frame: "pl.DataFrame", file: IO[bytes]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout and sys.stdout.isatty() else 200)
    rows = [[_cell(value, whole=frame.width <= PAIR) for value in row] for row in frame.iter_rows()]
    kept = _fitting([visible(name) for name in frame.columns], rows, console.width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place in kept:
        if place is None:
            table.add_column("…")
            continue
        name, kind = frame.columns[place], frame.dtypes[place]
        table.add_column(Text(visible(name)), justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("…" if place is None else row[place]) for place in kept))
    with console.capture() as capture:
        console.print(table)
        if left_out := [visible(name) for place, name in enumerate(frame.columns) if place not in kept]:
            remedy = "--columns NAME,... chooses, --format records shows all"
            console.print(Text(f"… {len(left_out)} columns: {', '.join(left_out)}; {remedy}"))
    file.write(capture.get().encode())


def _fitting(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int | None]:
    """Which columns a line of this width has room for, from both ends; None where those in the middle are left out.

    >>> _fitting(["sample", "a", "b", "last"], [["x" * 9, "1", "2", "y" * 9]], 25)
    [0, None, 3]
    """
    wide = [min(max(map(len, column)), NARROW) for column in zip(names, *rows, strict=True)]
    if sum(wide) + 2 * (len(wide) - 1) <= width or len(wide) <= PAIR:
        return [*range(len(wide))]
    room, kept = width - 1, set[int]()
    for step in range(len(wide)):
        place = step // 2 if step % 2 == 0 else len(wide) - 1 - step // 2
        room -= wide[place] + 2
        if room < 0 and len(kept) >= PAIR:
            break
        kept.add(place)
    first = next(place for place in range(len(wide) + 1) if place not in kept)
    return [*range(first), None, *(place for place in range(first, len(wide)) if place in kept)]


def _records(frame: "pl.DataFrame", file: IO[bytes]) -> None:
    """Row after row, a line for each column."""
    wide = max((len(visible(name)) for name in frame.columns), default=0)
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        lines = [f"{visible(name):<{wide}}  {_cell(value, whole=True)}" for name, value in row.items()]
        _put("\n".join([f"-- {number} of {frame.height}", *lines]), file)


def _cell(value: object, *, whole: bool = False) -> str:
    """A value in a table: four significant digits, long lists cut, and text if it need not be whole.

    Control characters are made visible.

    >>> _cell(0.123456), _cell(None), _cell("eoi"), _cell(list(range(99)))[-6:]
    ('0.1235', '', 'eoi', '16, …]')
    """
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else visible(str(value))
    if len(text) <= WIDEST or (whole and isinstance(value, str)):
        return text
    return f"{text[: WIDEST - 2].rstrip(', ')}, …{']' if text[-1] == ']' else ''}"


def _markdown(frame: "pl.DataFrame", file: IO[bytes]) -> None:
    lines = [list(map(visible, frame.columns)), ["---:" if kind.is_numeric() else "---" for kind in frame.dtypes]]
    lines += [[_cell(value).replace("|", "\\|") for value in row] for row in frame.iter_rows()]
    file.write("".join(f"| {' | '.join(line)} |\n" for line in lines).encode())


def flat(frame: "pl.DataFrame") -> "pl.DataFrame":
    """CSV has no lists: they are written as text; nor bytes: in hexadecimal."""
    import polars as pl

    frame = frame.with_columns(pl.col(pl.Binary).bin.encode("hex"))
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    texts = [pl.Series(name, [str(value) for value in frame[name].to_list()], pl.String) for name in nested]
    return frame.with_columns(texts)


def _opened(style: str, json_columns: Collection[str], frame: "pl.DataFrame", file: IO[bytes]) -> None:
    """As json or jsonl, with the JSON of these columns in its place."""
    rows = [json.loads(line) for line in frame.write_ndjson().split("\n") if line]
    for row in rows:
        row.update({name: json.loads(row[name]) for name in json_columns if row[name] is not None})
    dump = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    file.write((f"{dump(rows)}\n" if style == "json" else "".join(f"{dump(row)}\n" for row in rows)).encode())


def _put(text: str, file: IO[bytes]) -> None:
    file.write(f"{text}\n".encode())


_WRITERS: "dict[str, Callable[[pl.DataFrame, IO[bytes]], None]]" = {
    "table": _table,
    "records": _records,
    "csv": lambda frame, file: flat(frame).write_csv(file),
    "json": lambda frame, file: _put(frame.write_json(), file),
    "jsonl": lambda frame, file: frame.write_ndjson(file),
    "parquet": lambda frame, file: frame.write_parquet(file),
    "markdown": _markdown,
}
STYLES = tuple(_WRITERS)
SUFFIXES = {f".{style}": style for style in ("csv", "json", "jsonl", "parquet")} | {".md": "markdown", ".txt": "table"}
