"""What the model said: of each sample, and how often its likeliest next token is the sample's label."""

import polars as pl

from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.study import answers
from actstore_analyze.study.intervals import wilson

__all__ = ["SPACES", "accuracy", "samples", "told"]

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
    split = "split" if "split" in columns else "'all'"
    counted = store.sql(
        f"select condition, cast({split} as varchar) as split, count(*) as n, count(*) filter (is_right) as right "
        f"from ({_told(store, label, sql)}) group by all order by all"
    )
    told = label == answers.TRUTH and answers.own(store)
    if not counted.height or not (told or counted["right"].sum() or _are_tokens(store, label)):
        return None
    rows = [
        (condition, split, right / n, *wilson(right, n), right, n)
        for condition, split, n, right in counted.select("condition", "split", "n", "right").iter_rows()
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def told(store: Store, label: str = "label", *, sql: str = "from samples") -> pl.DataFrame | None:
    """condition, sample_id, is_right of the samples that `accuracy` counts; None where it has none."""
    if accuracy(store, label, sql=sql) is None:
        return None
    return store.sql(f"select condition, sample_id, is_right from ({_told(store, label, sql)}) order by all")


def samples(store: Store) -> pl.DataFrame:
    """Each sample that was done, of the model as it is: sample_id, image, prompt, truth, next_token, sure, is_right.

    sure: the probability of the next token, [0, 1]. is_right and truth: as `accuracy` has them, NULL where it has none.
    """
    label = answers.right(store, "label") or "label"
    told = accuracy(store, label) is not None
    query = _told(store, label, "from samples") if told else (
        "select *, null::boolean as is_right from samples where status = 'ok' and next_token is not null"
    )  # fmt: skip
    columns = store.sql("from samples limit 0").columns
    own = [name if name in columns else f"null::varchar as {name}" for name in ("image", "prompt")]
    truth = f'cast("{label}" as varchar)' if told else "null::varchar"
    return store.sql(
        f"select sample_id, {', '.join(own)}, {truth} as truth, next_token, next_token_probability as sure, is_right "
        f"from ({query}) where condition = 'none' order by sample_id"
    )


def _told(store: Store, label: str, sql: str) -> str:
    """SELECT of the samples that were asked for their label, and `is_right`: whether the next token is it."""
    own = answers.own(store) if label == answers.TRUTH else None
    right = f"nfc_normalize(trim(next_token, '{SPACES}')) = nfc_normalize(cast(\"{label}\" as varchar))"
    if own is not None:  # of which the first token counts
        tokens = " ".join(f"when {literal(word)} then {token}" for word, token in answers.tokens(store).items())
        right = f'next_token_id = case "{label}" {tokens} end'
    asked = _asked(store) if "prompt_order" in store.plan.columns else ""
    return (
        f"select *, {right} as is_right from (\n{sql}\n) "
        f"where status = 'ok' and next_token is not null and \"{label}\" is not null {asked}"
    )


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
