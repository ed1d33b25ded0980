"""The small views of a store: run, parts and results."""

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import polars as pl

from actstore.format.commits import Commit
from actstore.format.header import Header
from actstore.format.results import Result
from actstore.format.schema import PLAN

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
    "device": pl.String,
}


JSON = ("parameters", "versions")  # of results
VIEWS = {
    "rows": "one row for each vector, with its sample's columns",
    "samples": "one row for each sample and condition, failed ones too",
    "answers": "one row for each answer of a recipe and sample",
    "plan": "every unit of work, done or not",
    "parts": "one row for each batch that is committed",
    "run": "one row: the run card",
    "vocab": "the model's tokens",
    "results": "one row for each saved result, which is a view, too",
}
MEANINGS = {
    "answer": "the class or word that it stands for, by the recipe",
    "answer_probabilities": "of the recipe's answers as next token; see the view answers",
    "batch": "unit of work of the plan",
    "blocks": "whose keys and values are stored",
    "boi": "position of the token that begins the image",
    "bytes": "on disk",
    "commits": "records that it was computed from",
    "condition": "none, or the knockout, patch or steering it ran under",
    "created": "time, ISO 8601 with zone",
    "current": "whether the store still holds what it was computed from",
    "d_model": "width of a vector",
    "eoi": "position of the token that ends the image",
    "error": "why the sample failed; NULL if it did not",
    "generated_text": "what the model said after the prompt",
    "grid_columns": "image tokens in a line; NULL where they are in no grid",
    "grid_rows": "lines of image tokens; NULL where they are in no grid",
    "image_end": "position of the last image token",
    "image_start": "position of the first image token",
    "k": "which position of the role, from 0",
    "layers": "residual points stored: 0 = embeddings, l = output of the l-th block",
    "length": "tokens of the prompt",
    "measure": "its name",
    "name": "of the view that holds it",
    "modality": "of the token: text, image or special",
    "next_token": "the most probable one after the prompt",
    "next_token_id": "the most probable one after the prompt",
    "next_token_probability": "of the most probable token",
    "parameters": "what was asked, JSON",
    "part": "folder under parts/",
    "picture": "of which picture, from 1; NULL for text, and of several",
    "pictures": "where each picture of the sample is",
    "place": "where the vector is in the arrays of its part",
    "position": "of the token in the prompt, from 0",
    "probability": "of the answer as next token",
    "role": "which token it is: eoi, last, image, ... (actstore roles)",
    "rows": "vectors in the part",
    "samples": "in the part, failed ones too",
    "row_id": "names the vector: residual(row_id, layer)",
    "sample_id": "names the sample",
    "source_similarity": "of what is said next with what the patch's source says",
    "sql": "rows it was asked of",
    "status": "ok or failed",
    "stored_dtype": "number type of the vectors",
    "token": "as text",
    "token_id": "in the model's vocabulary",
    "top_probabilities": "of the most probable next tokens",
    "top_tokens": "the most probable next tokens",
    "versions": "of the libraries, JSON",
    "device": "where it was computed: cpu, or a GPU by its name",
    "written": "time, ISO 8601 with zone",
}
OF_RUN = ["created", "d_model", "stored_dtype", "layers", "blocks"]  # the rest is the run card's
COLUMNS = """
select table_name as view, column_name as column, data_type as type from information_schema.columns
where table_schema = 'main' and not starts_with(table_name, 'stored_') order by ordinal_position
"""


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
    shown = dict(header.run)
    if isinstance(settings := shown.get("settings"), dict):
        shown["settings"] = {name: _opened(value) for name, value in settings.items()}
    card = {name: value if isinstance(value, PLAIN) else json.dumps(value) for name, value in shown.items()}
    return pl.DataFrame([{**card, **own}])


def _opened(setting: Any) -> Any:
    """A model's setting as what it is: lists and objects are kept as text.

    >>> _opened("[8, 8]"), _opened("[PAD]"), _opened(8)
    ([8, 8], '[PAD]', 8)
    """
    if isinstance(setting, str) and setting[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return json.loads(setting)
    return setting


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
            result.device,
        )
        for result in saved
    ]
    return pl.DataFrame(found, schema=RESULTS, orient="row")


def schema(select: Callable[[str], pl.DataFrame], own_of_rows: Collection[str] = ()) -> pl.DataFrame:
    """view, column, type, meaning of all that SQL knows of a store; those of results and the run card have none.

    own_of_rows: columns of a user's own that rows have.
    """
    found = select(COLUMNS)
    order = [*VIEWS, *(name for name in found["view"].unique(maintain_order=True) if name not in VIEWS)]
    whole = [
        {"view": name, "column": None, "type": "view", "meaning": VIEWS.get(name, "a saved result")} for name in order
    ]
    planned = found.filter(view="plan")["column"].to_list()
    own = pl.col("view").is_in(["rows", "samples", "plan"]) & pl.col("column").is_in(
        [name for name in planned if name not in PLAN]
    )
    known = (
        pl.when(own)
        .then(pl.lit("the sample's own"))
        .when((pl.col("view") == "rows") & pl.col("column").is_in(list(own_of_rows)))
        .then(pl.lit("the row's own"))
        .otherwise(pl.col("column").replace_strict(MEANINGS, default=None))
    )
    of_store = pl.col("view").is_in([*VIEWS]) & ((pl.col("view") != "run") | pl.col("column").is_in(OF_RUN))
    columns = found.with_columns(meaning=pl.when(of_store).then(known))
    table = pl.concat([pl.DataFrame(whole, schema=dict.fromkeys(columns.columns, pl.String)), columns])
    return table.sort(pl.col("view").cast(pl.Enum(order)), maintain_order=True)
