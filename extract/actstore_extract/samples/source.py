"""A source of samples: what a recipe says about it, and the table of samples it makes."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from actstore.errors import ActstoreError

__all__ = ["Samples", "SamplesError", "Source", "open_image"]


class SamplesError(ActstoreError):
    """The samples cannot be found or read."""


@dataclass(frozen=True)
class Samples:
    """`table`: sample_id, image (a name, or NULL) and own columns; `image` opens what a name stands for."""

    table: pl.DataFrame
    image: Callable[[str], Image.Image]


class Source(BaseModel):
    """What every source takes; a subclass adds its own keys and makes the samples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    limit: Annotated[int, Field(ge=1)] | None = None

    @abstractmethod
    def samples(self) -> Samples:
        """All samples of the source; raises SamplesError for what is missing."""


def open_image(path: Path) -> Image.Image:
    """An image file, decoded; raises OSError for one that cannot be read."""
    with Image.open(path) as image:
        image.load()
        return image.copy()
