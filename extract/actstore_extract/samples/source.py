"""A source of samples: what a recipe says about it, and the table of samples it makes."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, ClassVar

import polars as pl
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from actstore_extract.samples.columns import KEPT, check_present, completed, renamed
from actstore_extract.samples.errors import SamplesError

__all__ = ["Samples", "SamplesError", "Source", "drawn"]


@dataclass(frozen=True)
class Samples:
    """`table`: sample_id, image (a name, a list of several, or NULL) and own columns; `image` opens what a name stands
    for, as it is seen (`actstore_extract.pictures`), or raises PictureError.

    `folder` is where images are files of these names, if they are files; `notes` say what of the source is left out.
    """

    table: pl.DataFrame
    image: Callable[[str], Image]
    folder: Path | None = None
    notes: tuple[str, ...] = ()


class Source(BaseModel):
    """Where pictures, prompts and labels come from; each source has keys of its own beside these."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    origin: ClassVar[str] = ""  # where the data are handed out

    source: Annotated[str, Field(examples=["imagefolder"])]
    """How the samples are laid out."""
    columns: Annotated[list[str] | dict[str, str | list[str]] | None, Field(examples=[{"label": "Class"}])] = None
    """Names for columns, name = "theirs", or a list of those that are kept beside sample_id and image; without it all.
    Several pictures of a sample are a column of lists, or several columns: { image = ["before", "after"] }."""
    limit: Annotated[int | None, Field(ge=1, examples=[1000])] = None
    """Only the first samples, so many."""
    shuffle: Annotated[int | None, Field(examples=[0])] = None
    """A seed: put the samples in random order before limit, the same on every machine; a larger limit only adds
    some."""
    resize: Annotated[int | None, Field(ge=1, examples=[512])] = None
    """Make every image a square of so many pixels before the model's own processor sees it."""

    @field_validator("columns")
    @classmethod
    def _one_each(cls, columns: list[str] | dict[str, str | list[str]] | None) -> object:
        for name, column in columns.items() if isinstance(columns, dict) else ():
            if isinstance(column, list) and (name != "image" or not column):
                raise ValueError(f"{name} = {column}: one column has a name; image alone may be several columns")
        return columns

    @abstractmethod
    def everything(self) -> Samples:
        """All that the source holds, in its own order and called as it calls them; raises SamplesError for what is
        missing."""

    def called(self, column: str) -> str:
        """The name of a column that `columns` does not name."""
        return column

    @property
    def named(self) -> dict[str, str]:
        """Columns that get a name: name -> column."""
        given = self.columns.items() if isinstance(self.columns, dict) else ()
        return {name: column for name, column in given if isinstance(column, str)}

    @property
    def pictured(self) -> list[str]:
        """The columns that `columns` names as the sample's pictures; none where it does not."""
        given = self.columns.get("image", []) if isinstance(self.columns, dict) else []
        return [given] if isinstance(given, str) else given

    def _names(self, present: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(name, column) of what is kept of the columns that are `present`, in their order."""
        check_present(self.columns if isinstance(self.columns, list) else self.named.values(), present, self._where)
        for column in present:
            given = [name for name, own in self.named.items() if own == column] or [self.called(column)]
            if not isinstance(self.columns, list) or column in self.columns or given[0] in KEPT:
                yield from ((name, column) for name in given)

    @property
    def _where(self) -> str:
        """The source in words, for errors."""
        return str(getattr(self, "path", self.source))

    def samples(self) -> Samples:
        """The samples that a recipe runs; raises SamplesError for what is missing."""
        found = self.everything()
        table = renamed(found.table, list(self._names(found.table.columns)), self._where)
        table = completed(table, self._where)
        if self.shuffle is not None:
            names = table["sample_id"].to_list()
            place = {name: i for i, name in enumerate(drawn(names, seed=self.shuffle))}
            table = table.select(pl.all().sort_by(pl.Series([place[name] for name in names], dtype=pl.Int64)))
        table = table.head(self.limit) if self.limit else table
        return replace(found, table=table, image=self._resized(found.image))

    def _resized(self, image: Callable[[str], Image]) -> Callable[[str], Image]:
        if self.resize is None:
            return image
        size = (self.resize, self.resize)
        return lambda name: image(name).resize(size)


def drawn(names: Iterable[str], *, seed: int, prefix: str = "") -> list[str]:
    """The names in an order that is random by `seed`: its first n are a draw of n.

    Hashes, because no random generator promises the same draws in its next version; so a new name moves no other.

    >>> drawn(["a", "b", "c", "d"], seed=0), drawn(["a", "b", "c"], seed=0)
    (['c', 'b', 'd', 'a'], ['c', 'b', 'a'])
    """
    return sorted(names, key=lambda name: sha256(f"{seed}/{prefix}{name}".encode()).digest())
