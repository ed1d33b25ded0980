"""Karpathy's splits of COCO and Flickr30k: dataset_coco.json, dataset_flickr30k.json.

{"images": [{"filename": ..., "split": "test", "sentences": [{"raw": "A man ..."}, ...], "filepath": "val2014",
"cocoid": 522418}, ...]}; Flickr30k's images have no filepath and no cocoid.
"""

from pathlib import Path
from typing import NotRequired

import polars as pl
from typing_extensions import TypedDict

from actstore.errors import nearest
from actstore_extract.samples.files import read_json
from actstore_extract.samples.source import SamplesError

__all__ = ["KARPATHY", "of_split", "read_karpathy"]

KARPATHY = "Karpathy's caption_datasets.zip"


class _Sentence(TypedDict):
    raw: str


class _Image(TypedDict):
    filename: str
    split: str
    sentences: list[_Sentence]
    filepath: NotRequired[str]
    cocoid: NotRequired[int]


class _File(TypedDict):
    images: list[_Image]


def read_karpathy(path: Path) -> pl.DataFrame:
    """filename, folder, image_id (both NULL in Flickr30k), captions (a list) and split, in the file's order."""
    images = read_json(path, _File, KARPATHY)["images"]
    columns = {
        "filename": [image["filename"] for image in images],
        "folder": [image.get("filepath") for image in images],
        "image_id": [image.get("cocoid") for image in images],
        "captions": [[sentence["raw"] for sentence in image["sentences"]] for image in images],
        "split": [image["split"] for image in images],
    }
    kinds = pl.Schema({"folder": pl.String(), "image_id": pl.Int64(), "captions": pl.List(pl.String)})
    return pl.DataFrame(columns, schema_overrides=kinds)


def of_split(table: pl.DataFrame, split: str, where: Path) -> pl.DataFrame:
    """The rows of one split; SamplesError, with the nearest, when there is none of that name."""
    found = table.filter(pl.col("split") == split)
    if not found.height:
        splits = sorted(set(table["split"].drop_nulls()))
        hint = nearest(split, splits, f"it has {', '.join(splits)}")
        raise SamplesError(f"{where} has no split '{split}'{hint}")
    return found
