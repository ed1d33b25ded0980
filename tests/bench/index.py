"""SQL over many rows, from Parquet and from an index, and opening a store of many parts.

python tests/bench/index.py [--quick] [--rows 10000000,100000000] [--parts 100,1000,5000]

The tables are those of a store with 100 rows for each sample, sorted by sample as a store's are; 100 million rows take
some minutes to make and 3 GB of disk. The goal is about the first query, from an index. The bare floor of opening is
the listing of commits/ and of every file of every part.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from measuring import Goal, finish, parser, row, taking_turns

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
import actstore
import making
from actstore.format import checkpoint, records
from actstore.format.names import CHECKPOINT, FORMAT
from actstore.format.schema import PLAN, ROWS, SAMPLES, Columns
from actstore.limits import Limits
from actstore.sql import query, views
from actstore.sql.tables import Tables

PER_SAMPLE = 100
QUERIES = {
    "role and label": "select row_id from rows where role = 'eoi' and label = 'c7'",
    "count by role": "select role, count(*) as n from rows group by all",
    "one sample": "from rows where sample_id = 's77'",
    "10,000 random rows of a role": "select row_id from rows where role = 'image' order by hash(row_id) limit 10000",
}
LIMIT = 0.1  # seconds
OPENED = 1.0  # seconds
KNOWN = {
    "rows": {
        "row_id": "range", "sample_id": f"'s' || range // {PER_SAMPLE}", "condition": "'none'",
        "role": f"case range % {PER_SAMPLE} when 0 then 'eoi' when {PER_SAMPLE - 1} then 'last' else 'image' end",
        "k": f"range % {PER_SAMPLE}", "position": f"range % {PER_SAMPLE}", "modality": "'image'",
    },
    "samples": {"sample_id": "'s' || range", "condition": "'none'", "status": "'ok'"},
    "plan": {"batch": "0", "sample_id": "'s' || range", "condition": "'none'"},
}  # fmt: skip


def tables(folder: Path, n_rows: int) -> dict[str, Path]:
    """The tables of a store with that many rows, without its vectors."""
    written = {}
    with duckdb.connect() as connection:
        connection.execute("set memory_limit = '2GB'")
        for name, columns in (("rows", ROWS), ("samples", SAMPLES), ("plan", PLAN)):
            label = ", 'c' || range % 50 as label" if name == "plan" else ""
            count = n_rows if name == "rows" else n_rows // PER_SAMPLE
            written[name] = folder / f"{name}.parquet"
            connection.execute(
                f"copy (select {', '.join(_fields(KNOWN[name], columns))}{label} from range({count})) "
                f"to {views.file(written[name])} (format parquet, compression zstd)"
            )
    return written


def _fields(known: dict[str, str], columns: Columns) -> Iterator[str]:
    for name, kind in columns.items():
        yield f"({known.get(name, 'null')})::{views._sql_type(kind)} as {name}"


def asking(folder: Path, n_rows: int, repeats: int) -> list[dict[str, Any]]:
    """Each query, from Parquet and from an index file."""
    made = tables(folder, n_rows)
    found = []
    for kind in ("Parquet", "index"):
        connection = duckdb.connect()
        connection.execute("set memory_limit = '2GB'")
        if kind == "index":
            path = folder / "index.duckdb"
            connection.execute(f"attach {views.file(path)} as indexed; use indexed")
            views.create_tables(connection, _known(folder, made), "table")
            connection.execute("use memory; detach indexed")
            views.attach_tables(connection, path)
        else:
            views.create_tables(connection, _known(folder, made), "view")
        views.create_views(connection, FORMAT)
        calls = {name: partial(query.select, connection, text, Limits()) for name, text in QUERIES.items()}
        spent = taking_turns(calls, repeats)
        for name, one in spent.items():
            what = f"{name}, {n_rows / 1e6:g} million rows, {kind}"
            goal = Goal("<=", 1) if (name, kind) == ("role and label", "index") and n_rows <= 10**7 else None
            found.append(row(what, one.cpu, "CPU s", "the goal", LIMIT, goal=goal))
            found.append(row(what, one.wall, "wall s", "the goal", LIMIT))
        connection.close()
    sizes = [(folder / name).stat().st_size / 1e6 for name in ("index.duckdb", "rows.parquet")]
    found.append(row(f"size, {n_rows / 1e6:g} million rows", sizes[0], "MB", "rows.parquet", sizes[1]))
    for path in folder.iterdir():
        path.unlink()
    return found


def _known(folder: Path, made: dict[str, Path]) -> Tables:
    """The tables as SQL takes them."""
    return Tables(
        folder,
        "",
        n_parts=1,
        n_rows=0,
        rows=lambda: [made["rows"]],
        samples=lambda: [made["samples"]],
        plan=lambda: made["plan"],
        vocabulary=lambda: folder,
        format=FORMAT,
    )


def many_parts(path: Path, parts: int) -> Path:
    """A store of equal small parts; their files are links, which the check for plain files does not mind."""
    store = making.create(path, parts)
    store.write(0, **making.content(0))
    (commit,) = actstore.open(path).commits
    record = records.load(path / "commits" / commit.name)
    for number in range(1, parts):
        part = f"b{number:08d}-{number:08x}"
        for name in commit.files:
            target = path / "parts" / part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path / "parts" / commit.part / name, target)
        made = records.dump({**record, "part": part, "batches": [number]})
        (path / "commits" / f"b{number:08d}.json").write_bytes(made)
    return path


def looked_at(path: Path) -> None:
    """The floor: every record is read, every file of every part looked at."""
    for record in os.scandir(path / "commits"):
        Path(record.path).read_bytes()
    folders = [path / "parts"]
    while folders:
        for entry in os.scandir(folders.pop()):
            if entry.is_dir():
                folders.append(Path(entry.path))
            else:
                entry.stat()


def opening(folder: Path, parts: int, repeats: int) -> list[dict[str, Any]]:
    """Opening with every record read, and with the checkpoint that a run leaves behind."""
    path = many_parts(folder / f"s{parts}", parts)
    opened = partial(actstore.open, path)
    records_read = taking_turns({"open": opened, "floor": partial(looked_at, path)}, repeats)
    checkpoint.write(path, opened().header)
    with_checkpoint = taking_turns({"open": opened}, repeats)["open"]
    floor = records_read["floor"].cpu
    goal = Goal("<=", 1) if parts == 5000 and (path / CHECKPOINT).exists() else None
    return [
        row(f"open {parts} parts, every record read", records_read["open"].cpu, "CPU s", "read and stat alone", floor),
        row(f"open {parts} parts", with_checkpoint.cpu, "CPU s", "the goal", OPENED, goal=goal),
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rows", help="numbers of rows, separated by commas")
    made.add_argument("--parts", help="numbers of parts, separated by commas")
    asked = made.parse_args()
    repeats = 3 if asked.quick else 5
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for n in (asked.rows or ("500000" if asked.quick else "10000000")).split(","):
            found += asking(Path(folder), int(n), repeats)
        for n in (asked.parts or ("1000" if asked.quick else "100,1000,5000")).split(","):
            found += opening(Path(folder), int(n), repeats)
    finish(asked, found)


if __name__ == "__main__":
    main()
