"""The small views of a store: run, parts and results."""

import json
from collections.abc import Sequence

import polars as pl

from actstore.format.commits import Commit
from actstore.format.header import Header
from actstore.format.results import Result

PLAIN = str | int | float | None
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


JSON = ("parameters", "versions")  # of results


def json_of_run(header: Header) -> list[str]:
    """The columns of `run` that are JSON: what is no text or number."""
    return [name for name, value in header.run.items() if not isinstance(value, PLAIN)]


def run(header: Header) -> pl.DataFrame:
    """One row: the run card; what is no text or number is JSON (`json_of_run`)."""
    own = {
        "created": header.created,
        "d_model": header.d_model,
        "stored_dtype": header.dtype,
        "layers": list(header.layers),
        **({"blocks": list(header.blocks)} if header.blocks else {}),
    }
    card = {name: value if isinstance(value, PLAIN) else json.dumps(value) for name, value in header.run.items()}
    return pl.DataFrame([{**card, **own}])


def answers(header: Header) -> list[str]:
    """The names of the answers whose probabilities are kept, in their order; none where the run card does not say."""
    tokens = header.run.get("answer_tokens")
    return [str(name) for name in tokens] if isinstance(tokens, dict) else []


def parts(commits: Sequence[Commit]) -> pl.DataFrame:
    """One row for each batch that is committed."""
    found = [
        (commit.part, batch, commit.samples, commit.rows, commit.bytes, commit.written)
        for commit in commits
        for batch in commit.batches
    ]
    return pl.DataFrame(found, schema=PARTS, orient="row")


def results(saved: Sequence[Result], state: str) -> pl.DataFrame:
    """One row for each saved result; `current` is whether it was computed from a store in this state.

    parameters and versions are JSON; commits are the records it was computed from, NULL where they were not kept.
    """
    found = [
        (
            *(result.name, result.measure, result.created, result.sql, json.dumps(result.parameters)),
            result.state == state,
            None if result.commits is None else ", ".join(result.commits),
            json.dumps(result.versions),
        )
        for result in saved
    ]
    return pl.DataFrame(found, schema=RESULTS, orient="row")
