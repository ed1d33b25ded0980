"""What a recipe asks: the plan of its samples, held against all that the recipe names of them."""

import polars as pl

from actstore_extract.recipe.prompts import plan
from actstore_extract.recipe.recipe import Recipe
from actstore_extract.recipe.worded import word_columns
from actstore_extract.samples import Samples

__all__ = ["asked"]


def asked(recipe: Recipe, samples: Samples) -> pl.DataFrame:
    """The samples with prompt and prompt_order; RecipeError for a role by words of a column that they do not have."""
    found = plan(recipe, samples)
    word_columns(recipe, found.columns)
    return found
