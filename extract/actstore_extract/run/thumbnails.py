"""Thumbnails: small pictures of a store's samples, from the files that its recipe names, kept in it as a result."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import polars as pl
from PIL import Image

from actstore.errors import PlanError
from actstore.format import thumbnails as format_of
from actstore.format.results import Result
from actstore.progress import bar
from actstore.store import Store
from actstore_extract.pictures import PictureError
from actstore_extract.recipe.recipe import Recipe
from actstore_extract.run.resume import recipe_of
from actstore_extract.samples import Samples

__all__ = ["PIXELS", "keep", "keep_of", "of", "small"]

PIXELS = 96
QUALITY = 80  # of WebP, where a picture is made smaller; one that is small enough is kept pixel by pixel
THREADS = min(8, os.cpu_count() or 1)  # decoding and scaling let go of the interpreter


def small(image: Image.Image, pixels: int) -> bytes:
    """The picture as WebP, at most so many pixels wide and high; never larger than it is, then without loss."""
    shrunk = image.copy()
    shrunk.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    found = BytesIO()
    shrunk.save(found, "WEBP", quality=QUALITY, lossless=shrunk.size == image.size)
    return found.getvalue()


def of(names: Sequence[str], image: Callable[[str], Image.Image], pixels: int) -> pl.DataFrame:
    """image, width, height, thumbnail, error: a row for each of these pictures, which `image` opens."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnails") as pool, bar(len(names), "pictures") as progress:
        rows = []
        for row in pool.map(partial(_row, image=image, pixels=pixels), names):
            rows.append(row)
            progress.advance(1)
    return pl.DataFrame(rows, schema=format_of.COLUMNS, orient="row")


def _row(
    name: str, image: Callable[[str], Image.Image], pixels: int
) -> tuple[str, int | None, int | None, bytes | None, str | None]:
    try:
        found = image(name)
    except PictureError as error:
        return name, None, None, None, str(error)
    return name, found.width, found.height, small(found, pixels), None


def keep(store: Store, samples: Samples, pixels: int, say: Callable[[str], None]) -> Result | None:
    """Save the thumbnails of a store's samples, unless they are there; None where its plan has no pictures."""
    there = format_of.newest(store.results())
    if format_of.pixels(there) == pixels:
        return there
    names = _names(store.plan)
    if not names:
        return None
    table = of(names, samples.image, pixels)
    if (lost := table.filter(pl.col("thumbnail").is_null())).height:
        say(
            f"{lost.height} of {table.height} pictures cannot be read, {lost['image'][0]} the first: {lost['error'][0]}"
        )
    return store.save_result(format_of.MEASURE, table, {"pixels": pixels})


def keep_of(store: Store, recipe: Recipe, pixels: int, say: Callable[[str], None]) -> Result | None:
    """The same by a recipe, whose samples have to have the pictures that the store's plan names.

    Raises PlanError where they have others, or are given to the model in another size.
    """
    samples = recipe.samples.samples()
    made_by = recipe_of(store)
    if made_by is not None and made_by.samples.resize != recipe.samples.resize:
        raise PlanError(
            f"{store} was made with [samples] resize = {made_by.samples.resize}, this recipe has "
            f"{recipe.samples.resize}: its pictures are not those that the model saw"
        )
    if lost := sorted({*_names(store.plan)} - {*_names(samples.table)}):
        raise PlanError(
            f"{store}: {len(lost)} pictures of its plan are not among the samples of {recipe.name}, {lost[0]} the "
            "first; name the recipe that made it, and where its samples are now: --set samples.path=FOLDER"
        )
    return keep(store, samples, pixels, say)


def _names(table: pl.DataFrame) -> list[str]:
    """The pictures that a plan or samples name, each once, in their order; of any number for each sample."""
    if "image" not in table.columns:
        return []
    column = table["image"]
    flat = column.explode() if isinstance(column.dtype, pl.List) else column
    return flat.drop_nulls().unique(maintain_order=True).to_list()
