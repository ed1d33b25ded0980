"""What a recipe asks: the plan of its samples, held against all that the recipe names of them."""

import polars as pl

from actstore_extract.recipe.answers import TRUTH
from actstore_extract.recipe.prompts import plan, texts
from actstore_extract.recipe.recipe import Recipe, RecipeError
from actstore_extract.recipe.worded import word_columns
from actstore_extract.samples import Samples

__all__ = ["asked"]


def asked(recipe: Recipe, samples: Samples) -> pl.DataFrame:
    """The samples with prompt and prompt_order, and with their own answers, if the recipe has such, as `truth`.

    RecipeError for a role by words of a column that they do not have, and for a sample without an answer.
    """
    found, answers = plan(recipe, samples), recipe.capture.answers
    if isinstance(answers, str):
        if TRUTH in found.columns:
            raise RecipeError(
                f"[capture] answers {answers!r} make a column '{TRUTH}', and the samples have one: rename theirs, "
                f'[samples] columns = {{ own_{TRUTH} = "{TRUTH}" }}'
            )
        found = found.with_columns(pl.Series(TRUTH, texts(answers, found, "[capture] answers"), pl.String))
    word_columns(recipe, found.columns)
    return found
