"""What the GNU Collaborative International Dictionary of English says of words: text alone."""

from typing import Literal

import polars as pl
from PIL.Image import Image

from actstore_extract.pictures import PictureError
from actstore_extract.samples.source import Samples, Source
from actstore_extract.shipped import WEIGHTS
from actstore_extract.shipped.gcide import definitions

__all__ = ["Gcide"]


class Gcide(Source):
    """The first definition of every plain word in the GNU Collaborative International Dictionary of English, which
    `actstore weights get gcide` fetches; WeightsError where it did not."""

    source: Literal["gcide"]

    def everything(self) -> Samples:
        """sample_id = word, label = part of speech as the dictionary writes it, word, definition; by word."""
        found = definitions(WEIGHTS["gcide"].there())
        table = {
            "sample_id": [one.word for one in found],
            "image": pl.Series([None] * len(found), dtype=pl.String),
            "label": [one.part for one in found],
            "word": [one.word for one in found],
            "definition": [one.text for one in found],
        }
        return Samples(pl.DataFrame(table), _no_picture)


def _no_picture(name: str) -> Image:
    raise PictureError(f"{name}: definitions have no pictures")
