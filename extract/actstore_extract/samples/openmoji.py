"""OpenMoji's pictures of things that have names, as `actstore weights get openmoji` draws them."""

from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from actstore_extract.pictures import open_image
from actstore_extract.samples.source import Samples, Source, drawn
from actstore_extract.shipped import WEIGHTS
from actstore_extract.shipped.openmoji import emoji

__all__ = ["OpenMoji"]

# Unicode's groups -> a word that stands for each, one token of most vocabularies.
WORDS = {
    "Smileys & Emotion": "emotion",
    "Animals & Nature": "nature",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activity",
    "Objects": "object",
    "Symbols": "symbol",
}
TEST = 0.15  # of the names


class OpenMoji(Source):
    """OpenMoji's 1,250 pictures of things that have names, which `actstore weights get openmoji` draws; WeightsError
    where it did not."""

    source: Literal["openmoji"]
    split: Annotated[Literal["all", "train", "test"], Field(examples=["test"])] = "all"
    """Which part of the pictures, by name."""

    def everything(self) -> Samples:
        """sample_id = the code points, label = a word for the group, name, group and subgroup (Unicode's), split."""
        folder, rows = WEIGHTS["openmoji"].there(), emoji()
        names = drawn([one.name for one in rows], seed=0)
        test = set(names[: round(TEST * len(names))])
        table = pl.DataFrame(
            {
                "sample_id": [one.code for one in rows],
                "image": [f"{one.code}.png" for one in rows],
                "label": [WORDS[one.group] for one in rows],
                "name": [one.name for one in rows],
                "group": [one.group for one in rows],
                "subgroup": [one.subgroup for one in rows],
                "split": ["test" if one.name in test else "train" for one in rows],
            }
        )
        chosen = table if self.split == "all" else table.filter(split=self.split)
        return Samples(chosen, lambda name: open_image(folder / name), folder)
