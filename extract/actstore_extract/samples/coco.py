"""COCO captions: annotations/captions_val2014.json with val2014/*.jpg, or Karpathy's splits over the same images.

path/annotations/captions_val2014.json     of annotations_trainval2014.zip; any other captions_SPLIT.json as well
path/val2014/COCO_val2014_000000391895.jpg
path/dataset_coco.json                     for karpathy-train, -restval, -val and -test
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field
from typing_extensions import TypedDict

from actstore.errors import nearest
from actstore_extract.pictures import open_image
from actstore_extract.samples.files import first_file, folder, read_json
from actstore_extract.samples.karpathy import KARPATHY, of_split, read_karpathy
from actstore_extract.samples.source import Samples, SamplesError, Source

__all__ = ["Coco"]

_ORIGIN = "COCO's annotations_trainval2014.zip (https://cocodataset.org/#download)"
_PREFIX = "karpathy-"
_KARPATHY = ("dataset_coco.json", "annotations/dataset_coco.json")


_COLUMNS = pl.Schema(
    {
        "sample_id": pl.String(),
        "folder": pl.String(),
        "image_id": pl.Int64(),
        "captions": pl.List(pl.String),
        "split": pl.String(),
    }
)


class _Image(TypedDict):
    id: int
    file_name: str


class _Caption(TypedDict):
    image_id: int
    caption: str


class _File(TypedDict):
    images: list[_Image]
    annotations: list[_Caption]


class Coco(Source):
    """COCO's pictures with their captions."""

    origin: ClassVar[str] = _ORIGIN

    source: Literal["coco"]
    path: Annotated[Path, Field(examples=["/data/coco"])]
    """The folder with annotations and val2014."""
    split: Annotated[str, Field(examples=["karpathy-test"])] = "val2014"
    """Which part: that of a file captions_SPLIT.json, or karpathy-train, -restval, -val, -test."""

    def everything(self) -> Samples:
        """sample_id = the file's name, image = FOLDER/FILE, image_id, captions (a list), split."""
        root = folder(self.path, "the folder with COCO's annotations and val2014")
        table = self._karpathy(root) if self.split.startswith(_PREFIX) else self._captions(root)
        return Samples(table, lambda name: open_image(root / name), root)

    def _captions(self, root: Path) -> pl.DataFrame:
        file = root / "annotations" / f"captions_{self.split}.json"
        if not file.exists():
            known = [path.stem.removeprefix("captions_") for path in sorted(file.parent.glob("captions_*.json"))]
            splits = f"there is {', '.join(known)}" if known else f"get it from {_ORIGIN}"
            raise SamplesError(f"{file} does not exist{nearest(self.split, known, splits)}")
        data = read_json(file, _File, _ORIGIN)
        captions: dict[int, list[str]] = {image["id"]: [] for image in data["images"]}
        for one in data["annotations"]:
            captions.setdefault(one["image_id"], []).append(one["caption"].strip())
        names = [(image["id"], image["file_name"]) for image in data["images"]]
        return _table([(name, self.split, number, captions[number], self.split) for number, name in names], file)

    def _karpathy(self, root: Path) -> pl.DataFrame:
        file = first_file(root, _KARPATHY, KARPATHY)
        found = of_split(read_karpathy(file), self.split.removeprefix(_PREFIX), file)
        rows = found.select("filename", "folder", "image_id", "captions").iter_rows()
        return _table([(*row, self.split) for row in rows], file)


def _table(rows: list[tuple[str, str, int, list[str], str]], file: Path) -> pl.DataFrame:
    """The samples of rows (file name, folder, image_id, captions, split)."""
    if not rows:
        raise SamplesError(f"{file} has no images")
    table = pl.DataFrame(rows, schema=_COLUMNS, orient="row")
    return table.with_columns(image=pl.col("folder") + "/" + pl.col("sample_id")).drop("folder")
