"""A table of samples: Parquet, CSV or JSON lines with columns image, prompt, label and whatever else."""

from pathlib import Path
from typing import Literal

import polars as pl

from actstore_extract.pictures import open_image
from actstore_extract.samples.errors import SamplesError
from actstore_extract.samples.formats import read_table
from actstore_extract.samples.source import Samples, Source

__all__ = ["Table"]


class Table(Source):
    """One row for each sample; `image` is a path relative to `images`, or to the table's own folder, or the picture's
    own bytes, as Parquet of the hub has them ({bytes, path}), which are held in memory: take source hub for many.

    In CSV ids, labels, paths and words are text; other columns of other pictures are left out.
    """

    source: Literal["table"]
    path: Path
    images: Path | None = None

    def everything(self) -> Samples:
        """The table as it is; `image` as paths, or the rows' numbers where it holds bytes."""
        image = self.named.get("image", "image")
        words = {column for name, column in self.named.items() if name in ("sample_id", "image", "label", "prompt")}
        table = read_table(self.path, words)
        if not table.height:
            raise SamplesError(f"{self.path} has no rows")
        table = table.drop(name for name, kind in table.schema.items() if name != image and _is_picture(kind))
        folder = self.images or self.path.parent
        if image not in table.columns or not _is_picture(table[image].dtype):
            return Samples(table, lambda name: open_image(folder / name), folder)
        bytes_, paths = _pictures(table[image])
        if not bytes_.null_count() == bytes_.len() and paths.is_not_null().any():
            raise SamplesError(f"{self.path}: column '{image}' has the bytes of some pictures, and the paths of others")
        if paths.is_not_null().any():
            return Samples(table.with_columns(paths.alias(image)), lambda name: open_image(folder / name), folder)
        numbers = pl.int_range(table.height, eager=True).cast(pl.String)
        held = table.select(pl.when(bytes_.is_not_null()).then(numbers).alias(image))
        return Samples(table.with_columns(held), lambda name: open_image(bytes_[int(name)]))


def _is_picture(kind: pl.DataType) -> bool:
    """Whether a column's values are pictures: bytes, or bytes with a path."""
    return kind == pl.Binary or (isinstance(kind, pl.Struct) and {one.name for one in kind.fields} == {"bytes", "path"})


def _pictures(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The bytes of pictures, and the paths of those that have none."""
    if column.dtype == pl.Binary:
        return column, pl.Series([None] * len(column), dtype=pl.String)
    bytes_, path = (column.struct.field(name) for name in ("bytes", "path"))
    frame = pl.select(pl.when(bytes_.is_null()).then(path.cast(pl.String)))
    return bytes_, frame.to_series()
