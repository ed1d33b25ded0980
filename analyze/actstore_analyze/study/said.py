"""What the model said: how often its likeliest next token is the sample's label."""

import polars as pl

from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.study import answers
from actstore_analyze.study.intervals import wilson

__all__ = ["accuracy"]

SPACES = " ▁"  # around a word that was said; `Ġ` is a letter, and no decoded word has it for a space

SCHEMA = {
    "condition": pl.String,
    "split": pl.String,
    "accuracy": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "right": pl.Int64,
    "n": pl.Int64,
}


def accuracy(store: Store, label: str = "label", *, sql: str = "from samples") -> pl.DataFrame | None:
    """Share [0, 1] of samples whose next token is the label, by condition and split, with its 95 % Wilson interval.

    sql: gives the samples. None for a store without labels or without next tokens, and for labels that are no tokens:
    the folder names of pictures, say. Of samples' own answers (`truth`) the first token counts. Prompts that end with
    the image are left out, and those without one, unless no sample has one.
    """
    columns = store.sql("from samples limit 0").columns
    if label not in columns:
        return None
    own = answers.own(store) if label == answers.TRUTH else None
    said = f"trim(next_token, '{SPACES}') = cast(\"{label}\" as varchar)"
    if own is not None:  # of which the first token counts
        tokens = " ".join(f"when {literal(word)} then {token}" for word, token in answers.tokens(store).items())
        said = f'next_token_id = case "{label}" {tokens} end'
    split = "split" if "split" in columns else "'all'"
    asked = _asked(store) if "prompt_order" in columns else ""
    counted = store.sql(
        f"select condition, cast({split} as varchar) as split, count(*) as n, "
        f"count(*) filter ({said}) as right from (\n{sql}\n) "
        f"where status = 'ok' and next_token is not null and \"{label}\" is not null {asked} "
        "group by all order by all"
    )
    if not counted.height or not (own or counted["right"].sum() or _are_tokens(store, label)):
        return None
    rows = [
        (condition, split, right / n, *wilson(right, n), right, n)
        for condition, split, n, right in counted.select("condition", "split", "n", "right").iter_rows()
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _asked(store: Store) -> str:
    """Which prompts ask for the label: those with the text behind the image, or all text where no sample has one."""
    orders = set(store.plan["prompt_order"].drop_nulls())
    wanted = "text" if orders == {"text"} else "image-text"
    return f"and coalesce(prompt_order, '{wanted}') = '{wanted}'"


def _are_tokens(store: Store, label: str) -> bool:
    """Whether a label is in the vocabulary, alone or behind the mark that a tokenizer has for a space."""
    labels = f'select distinct cast("{label}" as varchar) as l from plan'
    found = store.sql(f"select count(*) from ({labels}) join vocab on token in (l, 'Ġ' || l, '▁' || l)")
    return int(found.item()) > 0
