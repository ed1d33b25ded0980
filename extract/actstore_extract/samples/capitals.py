"""Fifty countries with their capitals, asked for in three wordings: text alone, of a table of our own."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from PIL.Image import Image
from pydantic import Field

from actstore_extract.pictures import PictureError
from actstore_extract.samples.source import Samples, Source

__all__ = ["Capitals"]

WORDINGS = {
    "city-of": "The capital of {} is the city of",
    "called": "The capital city of {} is called",
    "question": "Q: What is the capital of {}? A: The capital is",
}


class Capitals(Source):
    """Fifty countries, whose capital is asked for in each wording."""

    source: Literal["capitals"]
    wordings: Annotated[tuple[Literal["city-of", "called", "question"], ...], Field(examples=[["question"]])] = (
        "city-of",
        "called",
        "question",
    )
    """How it is asked."""

    def everything(self) -> Samples:
        """sample_id = France-city-of ..., country, capital, label = continent, wording, prompt; by wording."""
        table = pl.read_csv(Path(str(files("actstore_extract") / "samples" / "capitals.csv")), infer_schema=False)
        asked = [
            table.select(
                sample_id=pl.col("country") + f"-{name}",
                country="country",
                capital="capital",
                label="continent",
                wording=pl.lit(name),
                prompt=pl.format(WORDINGS[name], "country"),
                image=pl.lit(None, pl.String),
            )
            for name in dict.fromkeys(self.wordings)
        ]
        return Samples(pl.concat(asked), _no_picture)


def _no_picture(name: str) -> Image:
    raise PictureError(f"{name}: capitals have no pictures")
