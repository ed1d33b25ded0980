"""The two sides of the modality gap: vectors of text tokens and of image tokens, of prompts in either order."""

from dataclasses import dataclass

import polars as pl

from actstore.errors import ActstoreError
from actstore.store import Store

__all__ = ["IMAGE", "TEXT", "Sides", "sides"]

# As The Narrow Gate takes them: each side comes second in its prompts, so that its tokens have seen the other kind.
TEXT = "role = 'random-text' and prompt_order = 'image-text'"
IMAGE = "role = 'random-image' and prompt_order = 'text-image'"

ORDERS = (
    "the prompt needs both orders: actstore extract RECIPE STORE "
    "--set \"prompt.text={ image-text = '...', text-image = '...' }\""
)


@dataclass(frozen=True)
class Sides:
    """Rows of texts and of images under one condition, in an order in which the i-th of both are of one pair.

    paired: whether they are: as many of each, with the same keys.
    """

    condition: str
    text: pl.DataFrame
    image: pl.DataFrame
    paired: bool


def sides(store: Store, sql: str, text: str, image: str) -> list[Sides]:
    """The rows of a query that satisfy either of two SQL conditions, apart by condition of the model.

    Raises ActstoreError if a side is empty, if a row is on both, or if only one side ran under a condition.
    """
    texts, images = (_side(store, sql, where, name) for where, name in ((text, "text"), (image, "image")))
    both = texts.join(images, on="row_id", how="semi")
    if both.height:
        raise ActstoreError(f"{both.height} rows are on both sides, the first with row_id {both['row_id'][0]}")
    return [
        _of_condition(str(condition), *(side.filter(pl.col("condition") == condition) for side in (texts, images)))
        for condition in pl.concat([texts["condition"], images["condition"]]).unique().sort()
    ]


def _side(store: Store, sql: str, where: str, name: str) -> pl.DataFrame:
    query = sql.strip().rstrip(";")
    ordered = "prompt_order" in store.sql("from rows limit 0").columns
    if "prompt_order" in where and not ordered:
        raise ActstoreError(f"the store has no prompts in two orders; choose its {name} rows with --{name} CONDITION")
    order = "prompt_order" if ordered else "NULL::varchar"
    rows = store.sql(
        f"select row_id, sample_id, condition, role, k, {order} as prompt_order from (\nfrom rows where row_id in "
        f"(select row_id from (\n{query}\n))) where (\n{where}\n) order by row_id"
    )
    if not rows.height:
        known = store.sql(f"select distinct {order} as prompt_order, role from rows order by all").iter_rows()
        has = ", ".join(f"{role} ({order})" if order else role for order, role in known) or "no rows"
        raise ActstoreError(
            f"no {name} rows where {where}; the store has {has}. "
            f"Choose with --{name} CONDITION, or extract them: {ORDERS}"
        )
    return rows.with_columns(key=_key())


def _key() -> pl.Expr:
    """What the two prompts of a pair share: sample_id without its ending, which says the order."""
    ending = pl.format("/{}", pl.col("prompt_order").fill_null("-"))
    return pl.when(pl.col("sample_id").str.ends_with(ending)).then(
        pl.col("sample_id").str.head(pl.col("sample_id").str.len_chars().cast(pl.Int64) - ending.str.len_chars())
    ).otherwise("sample_id")  # fmt: skip


def _of_condition(condition: str, text: pl.DataFrame, image: pl.DataFrame) -> Sides:
    if not text.height or not image.height:
        raise ActstoreError(f"condition '{condition}' has {text.height} texts and {image.height} images")
    text, image = text.sort("key", "k", "row_id"), image.sort("key", "k", "row_id")
    return Sides(condition, text, image, text["key"].equals(image["key"]))
