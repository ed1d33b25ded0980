"""SQL over ten million rows, from Parquet and from an index, and opening a store of many parts.

python tests/bench/index.py [--rows 10000000] [--parts 1000]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).parent.parent))
import actstore
import making
from actstore import records, sql
from actstore.limits import Limits
from actstore.schema import PLAN, ROWS, SAMPLES
from actstore.table import render
from actstore.tables import write_table

ROLES = ("eoi", "image", "last")
PER_SAMPLE = 100
QUERIES = {
    "role and label": "select row_id from rows where role = 'eoi' and label = 'c7' and sample_id < 's2'",
    "count by role": "select role, count(*) as n from rows group by all",
    "one sample": "from rows where sample_id = 's77'",
}


def best(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of the fastest of three calls."""
    times = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(times)


def large_tables(folder: Path, rows: int) -> list[Path]:
    """rows.parquet, samples.parquet and plan.parquet of a store with that many rows, without its vectors."""
    samples = max(1, rows // PER_SAMPLE)
    sample = pl.select(pl.int_range(samples * PER_SAMPLE) // PER_SAMPLE).to_series()
    k = pl.select(pl.int_range(samples * PER_SAMPLE) % PER_SAMPLE).to_series()
    known = {
        "row_id": pl.select(pl.int_range(samples * PER_SAMPLE)).to_series(),
        "sample_id": "s" + sample.cast(pl.String),
        "role": pl.Series([ROLES[min(i, 2) if i < 2 else 1 + (i == PER_SAMPLE - 1)] for i in range(PER_SAMPLE)]).gather(
            k
        ),
        "k": k,
        "position": k,
    }
    ids = pl.DataFrame({"sample_id": [f"s{i}" for i in range(samples)]})
    tables = {
        "rows": (pl.DataFrame(known).with_columns(condition=pl.lit("none")), ROWS),
        "samples": (ids.with_columns(condition=pl.lit("none"), status=pl.lit("ok")), SAMPLES),
        "plan": (ids.with_columns(batch=pl.lit(0), condition=pl.lit("none")), PLAN),
    }
    for name, (frame, columns) in tables.items():
        absent = [pl.lit(None, kind).alias(column) for column, kind in columns.items() if column not in frame.columns]
        whole = frame.with_columns(absent).select(pl.col(column).cast(kind) for column, kind in columns.items())
        if name == "plan":
            whole = whole.with_columns(label="c" + (pl.int_range(pl.len()) % 50).cast(pl.String))
        write_table(folder / f"{name}.parquet", whole)
    return [folder / f"{name}.parquet" for name in tables]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--parts", type=int, default=1000)
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        rows, samples, plan = large_tables(Path(folder), asked.rows)
        connection = sql.duckdb.connect()
        for kind, what in (("view", "Parquet"), ("table", "index")):
            connection.execute("begin")
            sql.create_tables(connection, [rows], [samples], plan, kind)
            connection.execute(sql.VIEWS)
            connection.execute("commit")
            for name, query in QUERIES.items():
                wall, cpu = best(lambda query=query: sql.select(connection, query, Limits()))
                found.append((f"{name}, {asked.rows} rows, {what}", wall, cpu))
            if kind == "view":
                connection.execute("drop view rows; drop view samples; drop view plan")
                connection.execute("drop view stored_rows; drop view stored_samples")
        path = many_parts(Path(folder) / "s", asked.parts)
        found.append((f"open, {asked.parts} parts", *best(lambda: actstore.open(path))))
    columns = ["what", "seconds", "cpu_seconds"]
    render(pl.DataFrame(found, schema=columns, orient="row"), "table")


if __name__ == "__main__":
    main()
