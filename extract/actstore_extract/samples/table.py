"""A table of samples: Parquet, CSV or JSON lines with columns image, prompt, label and whatever else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from PIL.Image import Image
from pydantic import Field

from actstore.errors import ActstoreError
from actstore.sql.files import read_table
from actstore_extract.pictures import open_image
from actstore_extract.samples.columns import check_present
from actstore_extract.samples.errors import SamplesError
from actstore_extract.samples.source import Samples, Source

__all__ = ["Table"]


class Table(Source):
    """Your own table, one row for each sample, with columns image, prompt, label and whatever else.

    `image` is a path, or a list of them, or the picture's own bytes, as Parquet of the hub has them ({bytes, path}):
    these are held in memory, so take source hub for many. In CSV ids, labels, paths and words are text; other columns
    of pictures are left out.
    """

    source: Literal["table"]
    path: Annotated[Path, Field(examples=["samples.csv"])]
    """The table: Parquet, CSV or JSON lines."""
    images: Annotated[Path | None, Field(examples=["pictures"])] = None
    """The folder that paths of pictures are relative to; without it the table's own."""

    def everything(self) -> Samples:
        """The table as it is; `image` as paths, or the rows' numbers where it holds bytes (NUMBER/K in lists)."""
        words = {column for name, column in self.named.items() if name in ("sample_id", "label", "prompt")}
        try:
            table = read_table(self.path, {*words, *self.pictured})
        except ActstoreError as error:
            raise SamplesError(f"{error}; set samples.path" if not self.path.exists() else str(error)) from None
        if not table.height:
            raise SamplesError(f"{self.path} has no rows")
        folder = self.images or self.path.parent
        if len(self.pictured) > 1:
            check_present(self.pictured, table.columns, str(self.path))
            table = table.with_columns(_side_by_side(table, self.pictured, self.path))
            return Samples(_plain(table), lambda name: open_image(folder / name), folder)
        image = next(iter(self.pictured), "image")
        table = _plain(table, image)
        if image in table.columns and isinstance(kind := table[image].dtype, pl.List) and _is_picture(kind.inner):
            return _of_lists(table, image, self.path)
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


def _plain(table: pl.DataFrame, *kept: str) -> pl.DataFrame:
    """The table without other columns of pictures."""
    held = {name: kind.inner if isinstance(kind, pl.List) else kind for name, kind in table.schema.items()}
    return table.drop(name for name, kind in held.items() if name not in kept and _is_picture(kind))


def _side_by_side(table: pl.DataFrame, columns: Sequence[str], path: Path) -> pl.Expr:
    """Paths of several columns as lists, `image`."""
    for name in columns:
        if table[name].dtype != pl.String:
            raise SamplesError(f"{path}: column '{name}' holds {table[name].dtype}; several columns hold paths")
    if "image" in table.columns and "image" not in columns:
        raise SamplesError(f"{path} has a column 'image' besides {', '.join(columns)}; rename it")
    return pl.concat_list(columns).alias("image")


def _of_lists(table: pl.DataFrame, image: str, path: Path) -> Samples:
    """Samples whose pictures are lists of bytes."""
    lists = table[image]
    lengths = lists.list.len().fill_null(0)
    bytes_, paths = _pictures(lists.filter(lengths > 0).explode())
    if paths.is_not_null().any():
        raise SamplesError(f"{path}: column '{image}' has paths in lists of bytes; take source hub")
    first = lengths.cum_sum() - lengths
    names = [
        [f"{row}/{k}" for k in range(n) if bytes_[start + k] is not None]
        for row, (n, start) in enumerate(zip(lengths, first, strict=True))
    ]

    def opened(name: str) -> Image:
        row, k = map(int, name.split("/"))
        return open_image(bytes_[first[row] + k])

    return Samples(table.with_columns(pl.Series(image, names, pl.List(pl.String))), opened)


def _is_picture(kind: object) -> bool:
    """Whether a column's values are pictures: bytes, or bytes with a path."""
    return kind == pl.Binary or (isinstance(kind, pl.Struct) and {one.name for one in kind.fields} == {"bytes", "path"})


def _pictures(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The bytes of pictures, and the paths of those that have none."""
    if column.dtype == pl.Binary:
        return column, pl.Series([None] * len(column), dtype=pl.String)
    bytes_, path = (column.struct.field(name) for name in ("bytes", "path"))
    frame = pl.select(pl.when(bytes_.is_null()).then(path.cast(pl.String)))
    return bytes_, frame.to_series()
