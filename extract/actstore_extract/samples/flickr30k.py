"""Flickr30k: flickr30k-images/*.jpg and one file of captions, five for each image.

    flickr_annotations_30k.csv   of the mirror nlphuji/flickr30k: columns raw (a JSON list), split, filename, img_id
    dataset_flickr30k.json       Karpathy's splits
    results_20130124.token       as first published, without splits: 1000092795.jpg#0<TAB>Two young guys ...

The first of them that is there is read. Captions of the .token file are tokenised: " ." instead of ".".
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field

from actstore_extract.pictures import open_image
from actstore_extract.samples.files import first_file, folder, read_lines
from actstore_extract.samples.karpathy import of_split, read_karpathy
from actstore_extract.samples.source import Samples, SamplesError, Source

__all__ = ["Flickr30k"]

_ORIGIN = "the mirror nlphuji/flickr30k (https://huggingface.co/datasets/nlphuji/flickr30k)"
_IMAGES = ("flickr30k-images", "flickr30k_images")


class Flickr30k(Source):
    """Flickr30k: pictures with five captions each."""

    origin: ClassVar[str] = _ORIGIN

    source: Literal["flickr30k"]
    path: Annotated[Path, Field(examples=["/data/flickr30k"])]
    """The folder with flickr30k-images and a file of captions."""
    split: Annotated[str, Field(examples=["test"])] = "all"
    """Which part, where the file of captions says it."""

    def everything(self) -> Samples:
        """sample_id = image = FILE, captions (a list of five), split (NULL without splits)."""
        root = folder(self.path, "the folder with flickr30k-images")
        file = first_file(root, list(_READERS), _ORIGIN)
        images = next((root / name for name in _IMAGES if (root / name).is_dir()), None)
        if images is None:
            raise SamplesError(f"{root} has no folder flickr30k-images: unpack flickr30k-images.zip there")
        table = _READERS[file.name](file).select(
            pl.col("filename").alias("sample_id"), "captions", "split", pl.col("filename").alias("image")
        )
        if self.split != "all":
            table = of_split(_with_splits(table, file), self.split, file)
        return Samples(table, lambda name: open_image(images / name))


def _with_splits(table: pl.DataFrame, file: Path) -> pl.DataFrame:
    if table["split"].null_count():
        raise SamplesError(
            f"{file} has no splits; put flickr_annotations_30k.csv or Karpathy's dataset_flickr30k.json beside it"
        )
    return table


def _read_csv(path: Path) -> pl.DataFrame:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [_row(number, row, path) for number, row in enumerate(csv.DictReader(file), start=1)]
    except KeyError as error:
        raise SamplesError(f"{path} has no column {error}; it is not the file of {_ORIGIN}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SamplesError(f"{path}: {error}") from None
    return _table(rows, path)


def _row(number: int, row: dict[str, str | None], path: Path) -> tuple[str, list[str], str | None]:
    """File name, captions and split of a row of the CSV."""
    name, raw, split = row["filename"], row["raw"], row["split"]
    try:
        captions = json.loads(raw or "")
    except (ValueError, RecursionError):
        captions = None
    if name is None or None in row.values() or not isinstance(captions, list) or not _are_texts(captions):
        raise SamplesError(f"{path}: row {number} is no image with its captions; perhaps the download was cut")
    return name, captions, split


def _are_texts(values: list[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _read_token(path: Path) -> pl.DataFrame:
    """Captions by image, in the order of the file."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        name, tab, caption = line.partition("\t")
        image, mark, _ = name.rpartition("#")
        if not tab or not mark:
            raise SamplesError(f"{path}:{number}: {line[:40]!r} is no line such as '1000092795.jpg#0<TAB>Two ...'")
        captions.setdefault(image, []).append(caption)
    return _table([(image, texts, None) for image, texts in captions.items()], path)


def _table(rows: list[tuple[str, list[str], str | None]], path: Path) -> pl.DataFrame:
    if not rows:
        raise SamplesError(f"{path} has no captions")
    kinds = pl.Schema({"filename": pl.String(), "captions": pl.List(pl.String), "split": pl.String()})
    return pl.DataFrame(rows, schema=kinds, orient="row")


_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    "flickr_annotations_30k.csv": _read_csv,
    "dataset_flickr30k.json": read_karpathy,
    "results_20130124.token": _read_token,
}
