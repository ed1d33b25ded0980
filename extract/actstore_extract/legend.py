"""The legend: which tokens of a prompt each role means."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from actstore.format.header import span
from actstore.read.tokens import as_read
from actstore.store import Store
from actstore_extract.roles import MEANINGS, Layout, parse_role, positions

__all__ = ["example", "of_store", "prompt", "table"]

# A picture of two lines of two tokens in front of a text; the sample's column `kind` says "guide dog".
TOKENS = ("<s>", "<image>", "■", "■", "<line>", "■", "■", "<line>", "</image>", "this", "is", "a", "guide", "dog")
LAYOUT = Layout(
    np.arange(len(TOKENS)),
    image=np.array([2, 3, 5, 6]),
    eol=np.array([4, 7]),
    boi=1,
    eoi=8,
    text=np.arange(9, 14),
    words={"word-kind": np.array([13]), "words-kind": np.array([12, 13])},
)
EXAMPLES = {
    "at-P": "at-3",
    "image-K": "image-2",
    "last-N": "last-2",
    "image-mean-without-P": "image-mean-without-3-6",
    "ROLE-of-N": "eoi-of-1",
    "word-COLUMN": "word-kind",
    "words-COLUMN": "words-kind",
}
SHOWN = 6  # tokens of a role that are shown


def example() -> pl.DataFrame:
    """role, meaning, example, positions: all roles, and what each is in one made-up prompt."""
    found = []
    for name, meaning in MEANINGS.items():
        shown = EXAMPLES.get(name, re.sub("-N$", "-2", name))
        at = None if shown == "at-NAME" else positions(parse_role(shown), LAYOUT, seed=0, sample_id="example")
        found.append((name, meaning, None if shown == name else shown, None if at is None else _places(at.tolist())))
    return pl.DataFrame(found, schema=["role", "meaning", "example", "positions"], orient="row")


def prompt() -> str:
    """That prompt, its positions above its tokens."""
    widths = [max(len(token), len(str(at))) for at, token in enumerate(TOKENS)]
    lines = ([str(at) for at in range(len(TOKENS))], TOKENS)
    return "\n".join("  ".join(f"{word:>{width}}" for word, width in zip(line, widths, strict=True)) for line in lines)


def of_store(store: Store) -> pl.DataFrame:
    """role, sample_id, n, positions, tokens: what each stored role is in the first sample that has it.

    A mean is of positions that a store does not say.
    """
    rows = store.sql(
        "select role, sample_id, position, token from rows left join vocab using (token_id) "
        "qualify (sample_id, condition) = min((sample_id, condition)) over (partition by role) order by role, k"
    )
    words = as_read(rows["token"], store.vocabulary["token"])
    found = [
        (role, sample_id, own["position"].to_list(), own["token"].to_list())
        for (role, sample_id), own in rows.with_columns(words).group_by("role", "sample_id", maintain_order=True)
    ]
    return table(found)


def table(found: Iterable[tuple[object, object, Sequence[int | None], Sequence[str | None]]]) -> pl.DataFrame:
    """One row for each role."""
    rows = [(role, sample_id, len(at), _places(at), _short(tokens)) for role, sample_id, at, tokens in found]
    schema = {"role": pl.String, "sample_id": pl.String, "n": pl.Int64, "positions": pl.String, "tokens": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _places(at: Sequence[int | None]) -> str | None:
    """Positions in words.

    >>> _places([2, 3, 4]), _places([7]), _places([None])
    ('2..4', '7', None)
    """
    known = [place for place in at if place is not None]
    return span(known) if known and known == [*range(known[0], known[-1] + 1)] else _short(known)


def _short(values: Sequence[object]) -> str | None:
    """Values in words, those in the middle left out; None where nothing is known.

    >>> _short([1, 2]), _short(list(range(30)))
    ('1 2', '0 1 2 … 27 28 29')
    """
    known = [str(value) for value in values if value is not None]
    half = SHOWN // 2
    return " ".join(known if len(known) <= SHOWN else [*known[:half], "…", *known[-half:]]) or None
