"""The small views of a store: run, parts, vocab, results and every saved result."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from actstore.format.names import VOCABULARY

if TYPE_CHECKING:
    from actstore.store import Store

PARTS = {
    "part": pl.String,
    "batch": pl.Int32,
    "samples": pl.Int64,
    "rows": pl.Int64,
    "bytes": pl.Int64,
    "written": pl.String,
}
RESULTS = {
    "name": pl.String,
    "measure": pl.String,
    "created": pl.String,
    "sql": pl.String,
    "parameters": pl.String,
    "current": pl.Boolean,
    "commits": pl.String,
    "versions": pl.String,
}


def tables(store: "Store") -> dict[str, pl.DataFrame]:
    """The small tables, by name."""
    return {"run": run(store), "parts": parts(store), "results": results(store)}


def files(store: "Store") -> dict[str, Path]:
    """The Parquet files that are views of their own, by name, each checked."""
    return {"vocab": store.checked(VOCABULARY), **{result.name: result.path for result in store.results()}}


def run(store: "Store") -> pl.DataFrame:
    """One row: the run card; what is no text or number is JSON."""
    own = {
        "created": store.header.created,
        "d_model": store.header.d_model,
        "stored_dtype": store.header.dtype,
        "layers": list(store.layers),
        **({"blocks": list(store.blocks)} if store.blocks else {}),
    }
    plain = str | int | float | None
    card = {name: value if isinstance(value, plain) else json.dumps(value) for name, value in store.run.items()}
    return pl.DataFrame([{**card, **own}])


def parts(store: "Store") -> pl.DataFrame:
    """One row for each batch that is committed."""
    found = [
        (commit.part, batch, commit.samples, commit.rows, commit.bytes, commit.written)
        for commit in store.commits
        for batch in commit.batches
    ]
    return pl.DataFrame(found, schema=PARTS, orient="row")


def results(store: "Store") -> pl.DataFrame:
    """One row for each saved result; `current` is whether the store still holds what it was computed from.

    parameters and versions are JSON; commits are the records it was computed from, NULL where they were not kept.
    """
    found = [
        (
            *(result.name, result.measure, result.created, result.sql, json.dumps(result.parameters)),
            result.state == store.state,
            None if result.commits is None else ", ".join(result.commits),
            json.dumps(result.versions),
        )
        for result in store.results()
    ]
    return pl.DataFrame(found, schema=RESULTS, orient="row")
