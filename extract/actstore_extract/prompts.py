"""Prompts: the text each sample is asked with, and the plan that lists them."""

import string

import polars as pl

from actstore.errors import nearest
from actstore_extract.families import MARKER
from actstore_extract.recipe import Recipe, RecipeError
from actstore_extract.samples import Samples

__all__ = ["plan"]


def plan(recipe: Recipe, samples: Samples) -> pl.DataFrame:
    """The samples with their columns prompt and prompt_order: image-text, text-image or text.

    Raises RecipeError for a {column} that the samples do not have.
    """
    table = samples.table.head(recipe.samples.limit) if recipe.samples.limit else samples.table
    texts = _texts(recipe.prompt.text, table)
    return table.with_columns(
        pl.Series("prompt", texts, pl.String), pl.Series("prompt_order", [_order(text) for text in texts], pl.String)
    )


def _texts(template: str | None, table: pl.DataFrame) -> list[str]:
    if template is None:
        if "prompt" not in table.columns:
            raise RecipeError(
                "the samples have no column prompt: set [prompt] text, for example '<image>What is this?'"
            )
        return [str(text) for text in table["prompt"].to_list()]
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise RecipeError(f"[prompt] text {template!r}: {error}; write {{{{ for a brace") from None
    for name in fields:
        if name not in table.columns:
            raise RecipeError(f"[prompt] text: the samples have no column '{name}'{nearest(name, table.columns)}")
    return [template.format_map(row) for row in table.iter_rows(named=True)]


def _order(text: str) -> str:
    """Which comes first.

    >>> [_order(text) for text in ("<image>What is this?", "A dog <image>", "A dog")]
    ['image-text', 'text-image', 'text']
    """
    before, marker, after = text.partition(MARKER)
    if not marker:
        return "text"
    return "image-text" if after.strip() or not before.strip() else "text-image"
