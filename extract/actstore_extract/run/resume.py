"""Resuming: a store goes on with the recipe, the model and the samples that made it, or is refused."""

from typing import Any

import polars as pl

from actstore.errors import PlanError
from actstore.store import Store
from actstore_extract.recipe.recipe import Recipe, recorded
from actstore_extract.run.card import flat
from actstore_extract.run.settings import changed

__all__ = ["check_same", "check_samples", "recipe_of"]

MAY_CHANGE = (
    "capture.batch_size",
    "capture.thumbnails",
    "check",
)  # from run to run: no number of a commit depends on them


def recipe_of(store: Store) -> Recipe | None:
    """The recipe in the run card."""
    card = store.run.get("recipe")
    return recorded(card, f"{store}: the recipe in its run card") if isinstance(card, dict) else None


def check_samples(store: Store, asked: pl.DataFrame) -> None:
    """Raise PlanError, with the first that differs, where the source no longer says of a sample what the plan says.

    Columns that the plan has in other types are of a version that read them so.
    """
    plan = store.plan
    columns = [name for name, kind in asked.schema.items() if plan.schema.get(name) == kind]
    before, now = (
        {name: repr(row) for name, row in zip(rows["sample_id"], rows.select(columns).iter_rows(), strict=True)}
        for rows in (plan.unique("sample_id", maintain_order=True), asked)
    )
    for name in before | now:
        was, is_now = before.get(name, "not there"), now.get(name, "not there")
        if was != is_now:
            raise PlanError(
                f"{store} goes on with the samples it was made for, and the source has others now: {name} was "
                f"{was}, is {is_now}; bring them back, or choose another folder"
            )


def check_same(store: Store, recipe: dict[str, Any], prints: dict[str, Any]) -> None:
    """Raise PlanError, with the difference, unless the store was made from this recipe and this model; ActstoreError
    for one that holds some of another.
    """
    store.header.check_whole(str(store))
    made_by = recipe_of(store)
    then = {} if made_by is None else made_by.record()
    there, wanted = flat(then), flat(recipe)
    pairs = {key: (there.get(key), wanted.get(key)) for key in {**there, **wanted} if key not in MAY_CHANGE}
    differing = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]} | changed(store.run, prints)
    if differing:
        lines = [f"  {key}: {before!r} in the store, {now!r} now" for key, (before, now) in differing.items()]
        samples = any(key.startswith("samples.") for key in differing)
        fixed = ", since its samples are those it was made for" if samples else ""
        raise PlanError(
            f"{store} was made otherwise; go on with what made it, or choose another folder{fixed}:\n"
            + "\n".join(lines)
        )
