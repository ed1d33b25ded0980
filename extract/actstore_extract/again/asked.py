"""What is asked to be run again: the recipe in a store's run card, with what a user changes of it; no torch."""

from collections.abc import Sequence
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.format.header import Header
from actstore_extract.recipe.recipe import Recipe, recorded

__all__ = ["asked"]


def asked(path: Path, header: Header, overrides: Sequence[str]) -> tuple[Recipe, bool]:
    """The recipe, with overrides (section.key=value) applied, and whether the store was made by code that a checkpoint
    brings along and that nobody here allowed: that is not for a store to say.

    Raises ActstoreError where the run card has no recipe, or for a key that recipes have not.
    """
    record = header.run.get("recipe")
    if not isinstance(record, dict):
        raise ActstoreError(f"{path} has no recipe in its run card: only what actstore extract made can be run again")
    model = record.get("model")
    brings_code = False
    if isinstance(model, dict) and model.get("remote_code"):
        record = {**record, "model": {**model, "remote_code": False}}
        brings_code = True
    recipe = recorded(record, f"{path}: the recipe in its run card", overrides)
    return recipe, brings_code and not recipe.model.remote_code
