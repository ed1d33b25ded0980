"""A data set of the Hugging Face hub, or a folder that `datasets.load_dataset` reads."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl
from PIL.Image import Image

from actstore.errors import nearest
from actstore.storage.links import MEANT
from actstore_extract.hub import unless_out_of_reach
from actstore_extract.samples.source import Samples, SamplesError, Source

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Hub"]

_MEDIA = ("Audio", "Image", "Pdf", "Video")  # features that are files; they would be copied into the plan


class Hub(Source):
    """`path` and `name` as load_dataset takes them; `image` is the column of images ("" where there are none).

    `columns` picks some of the other columns; without it all are kept but images, sounds and the like. Their names
    become lower-case identifiers.
    """

    source: Literal["hub"]
    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    image: str = "image"
    columns: list[str] | None = None

    def everything(self) -> Samples:
        """sample_id = row-NUMBER, unless the data set has a column sample_id; image; the other columns."""
        data = _loaded(self.path, self.name, self.split, self.revision)
        arrow = data.with_format("arrow")
        table = pl.DataFrame({plain: pl.Series(arrow[name][:]) for plain, name in self._kept(data).items()})
        numbers = pl.int_range(len(data), eager=True).cast(pl.String)
        if "sample_id" not in table.columns:
            table.insert_column(0, ("row-" + numbers.str.zfill(6)).alias("sample_id"))
        images = numbers if self.image else pl.lit(None, pl.String)
        return Samples(
            table.with_columns(pl.col("sample_id").cast(pl.String), image=images),
            lambda number: self._image(data, int(number)),
        )

    def _kept(self, data: "Dataset") -> dict[str, str]:
        """Columns to keep beside the image: name in the plan -> name in the data set."""
        present: list[str] = data.column_names
        for name in [*(self.columns or []), *filter(None, [self.image])]:
            if name not in present:
                hint = nearest(name, present)
                raise SamplesError(f"{self.path} has no column '{name}'{hint}; it has {', '.join(present)}")
        plain = [name for name in present if type(data.features[name]).__name__ not in _MEDIA]
        names = [name for name in self.columns or plain if name != self.image]
        kept = {_identifier(name): name for name in names}
        if len(kept) < len(names) or "image" in kept:
            raise SamplesError(f"{self.path}: columns that become one, or image: pick some of {', '.join(names)}")
        return kept

    def _image(self, data: "Dataset", number: int) -> Image:
        found = data[number][self.image]
        if not isinstance(found, Image):
            raise OSError(f"row {number} of {self.path}: column {self.image} holds a {type(found).__name__}")
        return found


def _identifier(name: str) -> str:
    """A column's name as the plan takes it.

    >>> _identifier("Answer Type"), _identifier("2nd")
    ('answer_type', 'column_2nd')
    """
    plain = re.sub(r"[^a-z0-9_]+", "_", name.lower())
    return plain if plain[:1].isalpha() else f"column_{plain}"


def _literal(path: str) -> str:
    """A folder as load_dataset reads it, which sees through links; anything else as it is."""
    if not Path(path).is_dir():
        return path
    folder = str(Path(path).resolve())
    if MEANT.search(folder):
        raise SamplesError(f"data set {path}: load_dataset would take {folder} for a pattern; rename the folder")
    return folder


def _loaded(path: str, name: str | None, split: str, revision: str | None) -> "Dataset":
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        with unless_out_of_reach():
            return datasets.load_dataset(_literal(path), name, split=split, revision=revision)
    except (OSError, RuntimeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        known = re.findall(r"'([\w.-]+)'", line.partition("Should be one of")[2])
        raise SamplesError(f"data set {path}, split {split}: {line}{nearest(split, known)}") from error
