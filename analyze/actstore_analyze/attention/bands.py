"""Bands: positions of the image part that cross-modal attention sets apart, under the name of a role."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import polars as pl

from actstore.errors import ActstoreError
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.study.selection import ALIASES

__all__ = ["OTHERS", "known", "places", "samples_of"]

# Role -> its column of the view samples; others are found by the rows that are stored of them.
COLUMNS = {"boi": "boi", "eoi": "eoi", "first-image": "image_start", "last-image": "image_end"}

# Without stored rows, the ends of lines are what stands after each line of the grid, up to the end of the image.
AFTER_LINES = (
    "from (select sample_id, condition, 'eol' as name, coalesce(eoi, image_end) as image_part, "
    "unnest([image_end + 1 - (grid_columns + 1) * i for i in range(grid_rows)]) as position "
    "from {samples} where image_end - image_start + 2 >= grid_rows * (grid_columns + 1)) "
    "select sample_id, condition, name, position where position < image_part"
)


SIZES = (
    "from (select sample_id, condition, 'image-size' as name, unnest(range(boi + 1, image_start)) as position "
    "from {samples}) select sample_id, condition, name, position"
)


@cache
def _data() -> dict[str, Any]:
    return dict(json.loads(files("actstore_analyze.attention").joinpath("bands.json").read_text(encoding="utf-8")))


UNSTORED = {"eol": AFTER_LINES, "image-size": SIZES}
SAYS_SIZES = "emu3"  # the family that says how large an image is
OTHERS: tuple[str, ...] = tuple(_data()["others"])  # of a model that the paper did not look at


def known(store: Store, names: Sequence[str] | None, picture: int | None = None) -> tuple[str, ...]:
    """The names asked for, each once; without any those of The Narrow Gate for the model of the store.

    Raises ActstoreError for a name that stands for no position of any sample.
    """
    if names is None:
        return _usual(store.run)
    chosen = tuple(dict.fromkeys(ALIASES.get(name, name) for name in names))
    if not chosen:
        raise ActstoreError(f"no name to set apart; for example: {','.join(OTHERS)}")
    found = set(places(store, chosen, picture)["name"])
    for name in chosen:
        if name not in found:
            raise ActstoreError(
                f"no sample of {store} has a position '{name}': {', '.join(COLUMNS)}, eol, image-size and "
                f"at-P are known of images that have them, other roles where they are stored: {', '.join(store.roles)}"
            )
    return chosen


def _usual(run: dict[str, Any]) -> tuple[str, ...]:
    """The names of the first model in the data whose entries the run card has."""
    fitting = (one["names"] for one in _data()["models"] if one["run"].items() <= run.items())
    return tuple(next(fitting, OTHERS))


def places(store: Store, names: Sequence[str], picture: int | None = None) -> pl.DataFrame:
    """sample_id, condition, name, position: where the samples, or one picture of them, have what is named; a name may
    have many positions."""
    stored = set(store.sql("select distinct role from rows where position is not null")["role"])
    derived = {name: query for name, query in UNSTORED.items() if name not in stored}
    if store.run.get("family") != SAYS_SIZES:  # of other models what begins an image may stand before tiles' numbers
        derived.pop("image-size", None)
    return store.sql(" union all by name ".join(_query(name, picture, derived) for name in names))


def samples_of(picture: int | None) -> str:
    """The view samples in SQL, or that of one of their several pictures alone; images_end is where the last ends."""
    of = {name: f"pictures[{picture}].{name} as {name}" for name in (*COLUMNS.values(), "grid_rows", "grid_columns")}
    own = "" if picture is None else f" replace ({', '.join(of.values())})"
    where = "" if picture is None else f" where len(pictures) >= {picture}"
    return f"(select *{own}, coalesce(s.eoi, s.image_end) as images_end from samples s{where})"


def _query(name: str, picture: int | None, derived: Mapping[str, str]) -> str:
    own, samples = f"sample_id, condition, {literal(name)} as name", samples_of(picture)
    if name in COLUMNS:
        return f"select {own}, {COLUMNS[name]} as position from {samples} where {COLUMNS[name]} is not null"
    if at := re.fullmatch(r"at-(\d+)", name):
        return f"select {own}, {at[1]} as position from samples where length > {at[1]}"
    if name in derived:
        return derived[name].format(samples=samples)
    its = "" if picture is None else f" and coalesce(picture, {picture}) = {picture}"
    return f"select {own}, position from rows where role = {literal(name)} and position is not null{its}"
