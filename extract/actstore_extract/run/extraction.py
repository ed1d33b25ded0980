"""Extraction in Python: a recipe in, a store out."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import actstore
from actstore.errors import visible
from actstore.format.given import names, path_of, place_of, text, whole
from actstore.store import Store
from actstore_extract.recipe.recipe import load, made
from actstore_extract.run.ranks import share_of
from actstore_extract.run.runner import Run

__all__ = ["extract"]


def extract(
    recipe: Mapping[str, Any] | Path | str,
    path: Path | str,
    *,
    changes: str | Sequence[str] = (),
    device: str = "auto",
    batch_size: int | None = None,
    share: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Store:
    """Run a recipe's model over its samples, and keep what it says in a store at `path` or URL; the same call goes on.

    recipe: a dictionary with the sections of a recipe, a TOML file, or the name of one that ships.
    changes: as `--set` has them, such as "samples.limit=100". share: "3/16", the third of sixteen.
    say: takes each line that a reader must know of; without it they go to standard error.

    Raises RecipeError for a recipe that cannot be, and ActstoreError as the command does. A sample that cannot be run
    is a row of the view samples with status `failed` and its error.

    >>> extract("digits-fusion", "demo/fusion", changes=["samples.limit=20"])            # doctest: +SKIP
    """
    changed, where = names(changes, "changes"), place_of(path, "a store")
    mine = None if share is None else text(share, "share")
    size = None if batch_size is None else whole(batch_size, "batch_size", least=1)
    if isinstance(recipe, Mapping):
        asked = made(recipe, changed)
    else:
        asked = load(str(path_of(recipe, "a recipe without sections")), changed)
    run = Run(asked, device=text(device, "device"), batch_size=size, share=share_of(mine), say=say or _say)
    run.extract(where)
    return actstore.open(where)


def _say(text: str) -> None:
    print(visible(text, lines=True), file=sys.stderr)
