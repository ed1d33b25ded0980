"""A data set of the Hugging Face hub, or a folder that `datasets.load_dataset` reads."""

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import polars as pl
from PIL.Image import Image
from pyarrow import compute
from pydantic import Field

from actstore.errors import nearest
from actstore.storage.links import MEANT
from actstore_extract.hub import unless_out_of_reach
from actstore_extract.pictures import PictureError, decoding, open_image, seen
from actstore_extract.samples.columns import check_present, identifier
from actstore_extract.samples.source import Samples, SamplesError, Source

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Hub"]

_MEDIA = ("Audio", "Image", "Pdf", "Video")  # features that are files; they would be copied into the plan


class Hub(Source):
    """A data set of the Hugging Face hub, or a folder that `datasets.load_dataset` reads.

    All columns are kept but images, sounds and the like, or those that `columns` lists; names that it does not give
    become lower-case identifiers.
    """

    source: Literal["hub"]
    path: Annotated[str, Field(examples=["uoft-cs/cifar10"])]
    """The data set's name on the hub, or a folder."""
    name: Annotated[str | None, Field(examples=["plain_text"])] = None
    """Which configuration, of a data set that has several."""
    split: Annotated[str, Field(examples=["test"])] = "train"
    """Which part of the data set."""
    revision: Annotated[str | None, Field(examples=["main"])] = None
    """The branch, tag or commit on the hub."""
    image: Annotated[str | list[str], Field(examples=["img"])] = "image"
    """The column of pictures, or of lists of them, or several columns; "" where there are none."""

    def everything(self) -> Samples:
        """The rows' numbers as image, where there is one; the other columns."""
        data = _loaded(self.path, self.name, self.split, self.revision)
        arrow = data.with_format("arrow")
        kept = self._kept(data)
        table = pl.DataFrame([pl.Series(name, arrow[name][:]) for name in kept])
        table = table.with_columns(_named(pl.col(name), data.features[name]).alias(name) for name in kept)
        if self._images:
            names = self._names_of(data).alias(self._images[0] if len(self._images) == 1 else "image")
            table = table.with_columns(names) if table.width else names.to_frame()
        pictures = self._pictures(data)
        return Samples(table, lambda name: self._image(pictures, name))

    def called(self, column: str) -> str:
        """A column's name as the plan takes it."""
        return "image" if [column] == self._images else identifier(column)

    @property
    def _images(self) -> list[str]:
        """The columns of pictures."""
        given = self.pictured or ([self.image] if isinstance(self.image, str) else self.image)
        return [name for name in given if name]

    def _names_of(self, data: "Dataset") -> pl.Series:
        """Names of the pictures of each row: its number, or lists of NUMBER/K."""
        if len(self._images) > 1:
            return pl.Series([[f"{row}/{k}" for k in range(len(self._images))] for row in range(len(data))])
        if not _listed(data.features[self._images[0]]):
            return pl.int_range(len(data), eager=True).cast(pl.String)
        lists = data.with_format("arrow")[self._images[0]][:]
        lengths = [
            0 if one is None else one for piece in lists.chunks for one in compute.list_value_length(piece).to_pylist()
        ]
        return pl.Series([[f"{row}/{k}" for k in range(n)] for row, n in enumerate(lengths)], dtype=pl.List(pl.String))

    def _kept(self, data: "Dataset") -> list[str]:
        """Columns to keep beside the image."""
        present: list[str] = data.column_names
        wanted = self.columns if isinstance(self.columns, list) else [*self.named.values()]
        kinds = {name: _listed(data.features[name]) or data.features[name] for name in present}
        media = {name for name in present if type(kinds[name]).__name__ in _MEDIA}
        self._check_pictures(kinds)
        check_present([*wanted, *self._images], present, self.path)
        chosen = wanted if isinstance(self.columns, list) else [name for name in present if name not in media]
        return [name for name in present if name in chosen and name not in self._images]

    def _check_pictures(self, kinds: Mapping[str, object]) -> None:
        """SamplesError for columns of images that hold none, or are not there while others hold some."""
        there = [name for name, kind in kinds.items() if _is_picture(kind)]
        remedy = f"; pictures are in {', '.join(there)}: set samples.image" if there else ""
        for name in self._images:
            if name not in kinds and there:
                raise SamplesError(f"{self.path} has no column '{name}'{nearest(name, list(kinds))}{remedy}")
            if name in kinds and not _is_picture(kinds[name]):
                said = getattr(kinds[name], "dtype", type(kinds[name]).__name__)
                named = '; names of files are of samples.source = "table"' if said == "string" else ""
                raise SamplesError(f"column '{name}' of {self.path} holds {said}, no pictures{remedy}{named}")

    def _pictures(self, data: "Dataset") -> "Dataset":
        """The columns of images alone: as files, unless the data set itself makes something else of these."""
        import datasets

        alone = data.select_columns(self._images)
        for name in self._images:
            kind = data.features[name]
            one = _listed(kind) or kind
            if isinstance(one, datasets.Image) and one.mode is None:
                file = datasets.Image(decode=False)
                alone = alone.cast_column(name, file if one is kind else datasets.List(file))
        return alone

    def _image(self, data: "Dataset", name: str) -> Image:
        number, _, k = name.partition("/")
        several = len(self._images) > 1
        column = self._images[int(k)] if several else self._images[0]
        with decoding():
            found = data[int(number)][column]
            found = found[int(k)] if k and not several else found
        match found:
            case None | {"bytes": None, "path": None}:
                raise PictureError(f"row {number} of {self.path} has no picture in its column {column}")
            case Image():
                return seen(found)
            case {"bytes": bytes(file)} | bytes(file):
                return open_image(file)
            case {"path": str(path)}:
                return open_image(Path(path))
        raise PictureError(f"row {number} of {self.path}: column {column} holds a {type(found).__name__}")


def _listed(kind: object) -> object | None:
    """What a column's lists hold; None for one that holds no lists."""
    return getattr(kind, "feature", None) if type(kind).__name__ in ("LargeList", "List", "Sequence") else None


def _is_picture(kind: object) -> bool:
    """Whether a column, or its lists, hold pictures or files, by the feature that the data set has for it."""
    if isinstance(kind, dict):
        return "bytes" in kind or "path" in kind
    return type(kind).__name__ == "Image" or getattr(kind, "dtype", "") in ("binary", "large_binary")


def _named(column: pl.Expr, kind: object) -> pl.Expr:
    """Class numbers as the names of the classes, as a data set's card shows them, in lists and structs too."""
    if "ClassLabel" not in repr(kind):
        return column
    if isinstance(kind, dict):
        return pl.struct(_named(column.struct.field(name), one).alias(name) for name, one in kind.items())
    if inner := _listed(kind):
        return column.list.eval(_named(pl.element(), inner))
    names = dict(enumerate(getattr(kind, "names", ())))
    return column.replace_strict(names, default=None, return_dtype=pl.String)  # -1 is datasets' word for no label


def _literal(path: str) -> str:
    """A folder as load_dataset reads it, which sees through links; anything else as it is."""
    if not Path(path).is_dir():
        return path
    folder = str(Path(path).resolve())
    if MEANT.search(folder):
        raise SamplesError(f"data set {path}: load_dataset would take {folder} for a pattern; rename the folder")
    return folder


def _cache(path: str) -> Path | None:
    """Where what load_dataset makes of a folder as it is now is kept; None, its own place, for anything else.

    load_dataset knows a local file again by its time of change alone, which copies and archives keep; a file's ctime
    is set by nobody.
    """
    if not Path(path).is_dir():
        return None
    from datasets import config

    folder = Path(path).resolve()
    stats = ((file, file.stat()) for file in sorted(folder.rglob("*")) if file.is_file())
    state = [(os.fspath(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file, stat in stats]
    known = hashlib.sha256(repr([os.fspath(folder), *state]).encode(errors="surrogateescape")).hexdigest()
    return Path(config.HF_DATASETS_CACHE) / "folders" / known[:32]


def _loaded(path: str, name: str | None, split: str, revision: str | None) -> "Dataset":
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        with unless_out_of_reach():
            return datasets.load_dataset(_literal(path), name, split=split, revision=revision, cache_dir=_cache(path))
    except (OSError, RuntimeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        known = re.findall(r"'([\w.-]+)'", line.partition("Should be one of")[2])
        raise SamplesError(f"data set {path}, split {split}: {line}{nearest(split, known)}") from error
