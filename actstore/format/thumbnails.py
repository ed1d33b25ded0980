"""Thumbnails: small pictures of a store's samples, a saved result like any other."""

from collections.abc import Iterable

import polars as pl

from actstore.format.results import Result

__all__ = ["COLUMNS", "MEASURE", "newest", "pixels"]

MEASURE = "thumbnails"
COLUMNS = {
    "image": pl.String,  # the picture's name in the plan
    "width": pl.Int32,  # of the picture as the model's processor is given it
    "height": pl.Int32,
    "thumbnail": pl.Binary,  # WebP; NULL where the picture could not be read, and `error` says why
    "error": pl.String,
}


def newest(results: Iterable[Result]) -> Result | None:
    """The thumbnails among the results of a store, of any of its states: its plan, which names them, never changes."""
    found = [one for one in results if one.measure == MEASURE]
    return max(found, key=lambda one: (one.created, one.path.name), default=None)


def pixels(result: Result | None) -> int | None:
    """How many pixels wide and high they are at most; None where there are none."""
    found = None if result is None else result.parameters.get("pixels")
    return found if isinstance(found, int) else None
