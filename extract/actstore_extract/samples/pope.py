"""POPE: whether an object is in an image, asked three ways about COCO's val2014.

path/coco_pope_random.json       of RUCAIBox/POPE (output/coco), also _popular and _adversarial; a question per line
path/val2014/COCO_val2014_000000310196.jpg
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field
from typing_extensions import TypedDict

from actstore_extract.pictures import open_image
from actstore_extract.samples.files import first_file, folder, read_json_lines
from actstore_extract.samples.source import Samples, Source

__all__ = ["Pope"]

_ORIGIN = "POPE's repository, output/coco (https://github.com/RUCAIBox/POPE)"
_SPLITS = ("random", "popular", "adversarial")


class _Question(TypedDict):
    question_id: int
    image: str
    text: str
    label: Literal["yes", "no"]


class Pope(Source):
    """POPE: whether an object is in a picture of COCO, asked in three ways."""

    origin: ClassVar[str] = _ORIGIN

    source: Literal["pope"]
    path: Annotated[Path, Field(examples=["/data/pope"])]
    """The folder with coco_pope_random.json and so on."""
    images: Annotated[Path | None, Field(examples=["/data/coco/val2014"])] = None
    """The folder of COCO's val2014; without it path/val2014."""
    split: Annotated[Literal["all", "random", "popular", "adversarial"], Field(examples=["adversarial"])] = "all"
    """How the objects that are not there were drawn."""

    def everything(self) -> Samples:
        """sample_id = SPLIT/question_id, image, question, label (yes or no), split (how the object was drawn)."""
        root = folder(self.path, "the folder with POPE's questions and COCO's val2014")
        rows = [
            (f"{split}/{one['question_id']}", one["image"], one["text"], one["label"], split)
            for split in (_SPLITS if self.split == "all" else (self.split,))
            for one in self._questions(root, f"coco_pope_{split}.json")
        ]
        table = pl.DataFrame(rows, schema=["sample_id", "image", "question", "label", "split"], orient="row")
        images = self.images or root / "val2014"
        return Samples(table, lambda name: open_image(images / name), notes=_unequal(table))

    def _questions(self, root: Path, name: str) -> list[_Question]:
        return read_json_lines(first_file(root, (name, f"coco/{name}"), _ORIGIN), _Question, _ORIGIN)


def _unequal(table: pl.DataFrame) -> tuple[str, ...]:
    """A note where the three ways have not as many questions as each other: POPE's first random set had 2,910."""
    counts = table["split"].value_counts(sort=True)
    if counts["count"].n_unique() <= 1:
        return ()
    said = ", ".join(f"{n:,} {split}" for split, n in counts.iter_rows())
    note = (
        f"POPE asks as many questions in each of its three ways, 3,000 today, and these are {said}: scores of all are "
        f"not those of others; the files of today are in {_ORIGIN}"
    )
    return (note,)
