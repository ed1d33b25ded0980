"""The legend of a recipe's first sample."""

import polars as pl

from actstore.errors import ActstoreError
from actstore.read.tokens import as_read
from actstore_extract.legend import table
from actstore_extract.recipe.recipe import Recipe
from actstore_extract.recipe.worded import words_of
from actstore_extract.roles import MEANINGS, parse_role, positions
from actstore_extract.run.encoder import Encoder
from actstore_extract.run.runner import Run

__all__ = ["of_recipe"]


def of_recipe(recipe: Recipe) -> pl.DataFrame:
    """role, sample_id, n, positions, tokens: all roles in the first sample of a recipe, by its model's processor.

    Raises ActstoreError for a sample that cannot be run.
    """
    run = Run(recipe)
    row = run.asked.row(0, named=True)
    sample_id = row["sample_id"]
    named = {name: columns[0] for name, columns in words_of(list(row)).items() if len(columns) == 1}
    encoded = Encoder(run.model, run.samples.image, recipe.prompt, named, room=1).encode(row)
    if isinstance(encoded, str):
        raise ActstoreError(f"sample {sample_id} cannot be run: {encoded}")
    vocabulary = run.model.vocabulary()
    words = pl.Series([vocabulary[int(token)] for token in encoded.layout.token_ids])
    tokens = as_read(words, pl.Series(list(vocabulary.values()))).to_list()
    capture = recipe.capture
    plain = [name for name in MEANINGS if not name.endswith(("-COLUMN", "-K", "-N", "-NAME", "-P"))]
    names = dict.fromkeys([*plain, *encoded.layout.words, *capture.roles, *capture.kv, *capture.attention])
    found = []
    for name in names:
        at = positions(parse_role(name), encoded.layout, seed=recipe.seed, sample_id=sample_id)
        if at is not None:
            found.append((name, sample_id, at.tolist(), [tokens[i] for i in at]))
    return table(found)
