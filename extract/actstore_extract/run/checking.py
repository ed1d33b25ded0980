"""Checking: when a run checks itself, and on which of its samples."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from actstore.errors import ActstoreError
from actstore_extract.check.batches import ALONE
from actstore_extract.check.check import Asked, check
from actstore_extract.check.found import Found, recorded, stricter
from actstore_extract.families import Model, Prompt
from actstore_extract.families.chat import ChatError
from actstore_extract.interventions.knockouts import KnockoutSection
from actstore_extract.interventions.patches import PatchSection
from actstore_extract.pictures import PictureError
from actstore_extract.recipe.recipe import Recipe, RecipeError
from actstore_extract.run.card import made_on
from actstore_extract.run.encoder import prompt_of
from actstore_extract.samples import Samples

__all__ = ["checked"]

_LOOKED_AT = 128  # samples with an image, then of all: the first that can be run is checked
_OURS = ("actstore", "torch", "transformers")


def checked(
    model: Model,
    recipe: Recipe,
    asked: pl.DataFrame,
    samples: Samples,
    *,
    batch_size: int,
    there: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> Found:
    """What the self-check finds; of a store that is `there`, by its run card, what it found then, unless device or
    versions are others now, or samples run together that ran alone. Raises CheckError."""
    before = recorded(there)
    if not recipe.check:
        return replace(before, left_out={"everything": "the recipe says check = false"})
    looked_at = batch_size == 1 or before.left_out.get("batches") != ALONE
    if there is not None and looked_at and not _is_another(there, made_on(model.device)):
        return before
    found = check(model, _looked_at(model, recipe, asked, samples), _asked(recipe, batch_size))
    for line in found.lines():
        say(line)
    return stricter(found, before)


def _asked(recipe: Recipe, batch_size: int) -> Asked:
    """What a run of the recipe does with its model."""
    capture, conditions = recipe.capture, recipe.conditions
    inside = any(isinstance(one, PatchSection) and one.point == "attention-input" for one in conditions)
    return Asked(
        batch_size,
        reads=bool(capture.attention or capture.mass or capture.kv or inside),
        blocks=bool(recipe.model.blocked) or any(isinstance(one, KnockoutSection) for one in conditions),
        generates=capture.max_new_tokens > 0,
    )


def _looked_at(model: Model, recipe: Recipe, asked: pl.DataFrame, samples: Samples) -> Iterator[Prompt]:
    """The first samples as they are asked, those with an image in front."""
    asked = asked.drop_nulls("prompt")
    rows = pl.concat([asked.filter(pl.col("image").is_not_null()).head(_LOOKED_AT), asked.head(_LOOKED_AT)])
    for row in rows.unique("sample_id", keep="first", maintain_order=True).iter_rows(named=True):
        try:
            yield prompt_of(model, recipe.prompt, row, samples.image)
        except Exception as error:  # the run says what is wrong with it
            if isinstance(error, ActstoreError) and not isinstance(error, ChatError | PictureError | RecipeError):
                raise


def _is_another(run: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether device or versions are others than those of a run card."""
    then = run.get("versions") or {}
    return run.get("device") != now["device"] or any(then.get(name) != now["versions"][name] for name in _OURS)
