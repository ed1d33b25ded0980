"""Answers: the words of a recipe whose probability is kept, held against the samples before the model is loaded."""

from collections.abc import Mapping, Sequence

import polars as pl

from actstore.errors import nearest
from actstore_extract.recipe.sections import RecipeError

__all__ = ["check_answers"]


def check_answers(answers: Sequence[str] | Mapping[str, str], asked: pl.DataFrame, *, limited: bool) -> None:
    """RecipeError for answers that cannot be meant: words with {columns}, and a table class = word without its classes.

    Of samples that are `limited` some classes may be left out, but not all.
    """
    where = "[capture] answers"
    for word in answers.values() if isinstance(answers, Mapping) else answers:
        if "{" in word or "}" in word:
            raise RecipeError(f"{where}: {word!r} has braces, but answers are words, the same for all samples")
    if not isinstance(answers, Mapping) or not answers:
        return
    if "label" not in asked.columns:
        raise RecipeError(
            f"{where} is a table class = word, but the samples have no column label: list the words, "
            '["dog", "cat"], or name the column of classes: [samples] columns = { label = "COLUMN" }'
        )
    classes = asked["label"].drop_nulls().unique(maintain_order=True).cast(pl.String).to_list()
    missing = [name for name in answers if name not in classes]
    if missing and (len(missing) == len(answers) or not limited):
        shown = f"{', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}"
        raise RecipeError(
            f"{where} is a table class = word, and no sample is of class '{missing[0]}'{nearest(missing[0], classes)}; "
            f"the column label has {shown}"
        )
