"""The 1,797 scanned digits that come with scikit-learn: the samples used when no data set is at hand."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from actstore_extract.samples.source import Samples, Source

__all__ = ["Digits", "Scans", "scans"]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
N_TEST = 449
N_VALIDATION = 200


@dataclass(frozen=True)
class Scans:
    """Scans `pixels` (n, 8, 8) in 0..16, their digit `labels` (n,) and the `split` (n,) each belongs to."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    split: NDArray[np.str_]
    words: tuple[str, ...] = WORDS

    def image(self, i: int) -> Image.Image:
        """Scan `i` as an RGB image of 8 x 8 pixels.

        >>> scans().image(0).size
        (8, 8)
        """
        grey = np.rint(self.pixels[i] * (255 / 16)).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")

    def indices(self, split: str) -> NDArray[np.int64]:
        """Rows of one split (n_split,), ascending.

        >>> [len(scans().indices(split)) for split in ("train", "validation", "test")]
        [1148, 200, 449]
        """
        return np.flatnonzero(self.split == split)


class Digits(Source):
    """The 1,797 scanned digits of scikit-learn: nothing has to be fetched."""

    source: Literal["digits"]
    split: Annotated[Literal["all", "train", "validation", "test"], Field(examples=["test"])] = "all"
    """Which part of the scans."""

    def everything(self) -> Samples:
        """sample_id = image = digit-0000 ..., label = the digit's word, split."""
        data = scans()
        chosen = np.arange(len(data.labels)) if self.split == "all" else data.indices(self.split)
        names = [f"digit-{i:04d}" for i in chosen]
        columns = {
            "sample_id": names,
            "label": [data.words[label] for label in data.labels[chosen]],
            "split": data.split[chosen].tolist(),
            "image": names,
        }
        return Samples(pl.DataFrame(columns), lambda name: data.image(int(name.removeprefix("digit-"))))


@cache
def scans() -> Scans:
    """All scans; the split is random, the same on every machine, and its arrays cannot be written to."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # RandomState's stream is frozen by numpy; default_rng's may change between versions.
    shuffled = np.random.RandomState(0).permutation(len(data.target))
    split = np.full(len(shuffled), "train", dtype="<U10")
    split[shuffled[:N_TEST]] = "test"
    split[shuffled[N_TEST : N_TEST + N_VALIDATION]] = "validation"
    pixels, labels = data.images.astype(np.uint8), data.target.astype(np.int64)
    for array in (pixels, labels, split):
        array.flags.writeable = False
    return Scans(pixels, labels, split)
