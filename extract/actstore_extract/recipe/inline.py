"""Knockouts that are asked for in a line, without a recipe."""

import tomllib
from collections.abc import Sequence
from typing import Any

from actstore_extract.interventions.conditions import Condition, ConditionError, expand
from actstore_extract.interventions.knockouts import KnockoutSection
from actstore_extract.recipe.sections import section

__all__ = ["conditions_of"]


def conditions_of(asked: Sequence[str], *, n_layers: int, seed: int = 0, **usual: object) -> list[Condition]:
    """The model as it is, and the knockouts asked for: keys, eoi, or a name or table of recipes, written inline.

    `usual` are keys of a condition that those asked for have unless they say otherwise. RecipeError or ConditionError
    for what is no knockout.

    >>> [one.name for one in conditions_of(["eoi", "{ keys = ['eoi', 'last-image'], layers = [1] }"], n_layers=2)]
    ['none', 'eoi-knockout', 'eoi-last-image-knockout']
    """
    tables = [{**usual, **_table(text)} for text in asked]
    sections = [section(KnockoutSection, one, f"knockout '{one['name']}'") for one in tables]
    return list(expand(sections, n_layers=n_layers, seed=seed).values())


def _table(text: str) -> dict[str, Any]:
    """The condition as a recipe's table, with a name."""
    if not text.startswith("{"):
        return {"name": f"{text.removesuffix('-knockout')}-knockout"}
    try:
        table: dict[str, Any] = tomllib.loads(f"condition = {text}")["condition"]
    except (ValueError, RecursionError) as error:
        raise ConditionError(
            f"knockout {text}: {error}; write it as in a recipe: {{ keys = ['eoi', 'last-image'], queries = 'text' }}"
        ) from None
    keys = table.get("keys", [])
    named = "-".join(map(str, [keys] if isinstance(keys, str) else keys))
    return {"name": f"{named}-knockout" if named else "knockout", **table}
