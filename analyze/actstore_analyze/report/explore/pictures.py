"""Pictures of samples: their thumbnails in a store, and where the cells of a model's grid lie on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.format import thumbnails
from actstore.store import Store

__all__ = ["NONE", "Place", "Thumbnails", "image_names", "places_of", "why_beside"]

NONE = "no picture is kept: capture.thumbnails = 96 in the recipe, or now: actstore thumbnails STORE"
MOST_ASIDE = 0.15  # relative difference of two aspects that one cell more or less may make

Ints = NDArray[np.int64]


class Thumbnails:
    """The pictures in a store, by their names in its plan; none in most stores."""

    def __init__(self, store: Store) -> None:
        self.result = thumbnails.newest(store.results())

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of each picture as the model's processor is given it; of those that are kept."""
        return {name: (width, height) for name, (width, height, _) in self._kept.items()}

    def webp(self, names: Sequence[str]) -> dict[str, bytes]:
        """The bytes of those of these pictures that are kept."""
        return {name: self._kept[name][2] for name in names if name in self._kept}

    @cached_property
    def _kept(self) -> dict[str, tuple[int, int, bytes]]:
        if self.result is None:
            return {}
        table = self.result.table().filter(pl.col("thumbnail").is_not_null())
        return {name: tuple(row) for name, *row in table.select("image", "width", "height", "thumbnail").iter_rows()}


def image_names(value: object) -> list[str]:
    """The pictures that a sample's column `image` names."""
    return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []


@dataclass(frozen=True)
class Place:
    """Where one picture of a sample is: grid (rows, columns) of its tokens, and their positions, row after row."""

    grid: tuple[int, int]
    positions: Ints


def places_of(row: Mapping[str, Any], image_positions: Sequence[int] | None = None) -> list[Place | None]:
    """Where each picture of a sample (a row of samples) is; None for one whose tokens are no grid, or not known.

    image_positions: those of the sample's image tokens, where role `image` is kept; without them, tokens that follow
    each other without anything between. A guess is never made.

    >>> row = {"image_start": 1, "image_end": 4, "grid_rows": 2, "grid_columns": 2}
    >>> places_of(row)[0].positions.tolist(), places_of({**row, "image_end": 6})
    ([1, 2, 3, 4], [None])
    """
    spans = row.get("pictures") or [row]
    return [_place(span, image_positions) for span in spans if span.get("image_start") is not None]


def _place(span: Mapping[str, Any], image_positions: Sequence[int] | None) -> Place | None:
    rows, columns = span.get("grid_rows"), span.get("grid_columns")
    if rows is None or columns is None:
        return None
    first, last = int(span["image_start"]), int(span["image_end"])
    known = range(first, last + 1) if image_positions is None else image_positions
    own = np.array([at for at in known if first <= at <= last], np.int64)
    return Place((rows, columns), own) if len(own) == rows * columns else None


def why_beside(size: tuple[int, int], grid: tuple[int, int], run: Mapping[str, Any]) -> str | None:
    """Why a grid (rows, columns) cannot be drawn on a picture of this size (width, height); None where it can.

    A processor that cuts the picture, or pads it, shows the model another part of it than the picture has.
    """
    (width, height), (rows, columns) = size, grid
    if abs(np.log((width / height) / (columns / rows))) > MOST_ASIDE:
        return (
            f"the model's grid has {rows} x {columns} cells, the picture {width} x {height} pixels: its processor cut, "
            "padded or stretched it, so the grid stands beside it"
        )
    named = _processor(run)
    if named.get("do_center_crop") and _least(named, "crop_size") < _least(named, "size"):
        return "the model's processor cuts the picture's margins off, so the grid stands beside it"
    return None


def _processor(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by which pictures were prepared, such as size.height: those in force, else of the files."""
    if isinstance(run.get("processor"), Mapping):
        return {
            f"{name}.{key}" if key else name: value
            for name, given in run["processor"].items()
            for key, value in (given.items() if isinstance(given, Mapping) else [("", given)])
        }
    settings = run.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    return {str(key).partition(": ")[2]: value for key, value in settings.items() if "processor" in str(key)}


def _least(settings: Mapping[str, Any], name: str) -> float:
    """The smallest number of a size in a processor's settings; 0 where there is none."""
    found = [value for key, value in settings.items() if key == name or key.startswith(f"{name}.")]
    return min((float(one) for one in found if isinstance(one, int | float)), default=0.0)
