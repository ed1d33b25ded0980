"""Calls of `actstore gap`: the cosines between text and image vectors at each layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError, UndefinedError
from actstore.store import Store
from actstore_analyze import devices
from actstore_analyze.gap.measure import Quartiles, Shares, bounds, cosine_counts, quartiles, shares
from actstore_analyze.gap.sides import IMAGE, TEXT, Sides, sides
from actstore_analyze.published import curves
from actstore_analyze.study import held
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import EVERYTHING, OnDevice, Prepared, WithInterval, depth

__all__ = ["Gap", "Unit"]
T = TypeVar("T")
PART_BYTES = 1 << 28  # of texts or images in memory at a time
WOODRUFF = (
    "Interval: 95 %, of the median, by the jackknife over samples, each left out with its text and its image, of the "
    "share of pairs below it (Woodruff 1952)."
)
PAIRS = {
    "all": "all pairs of a text and an image vector",
    "unmatched": "all pairs of a text and an image vector that are not of the same sample",
    "lower": "the text i and image j vectors with i > j, as the authors' code takes them",
    "matched": "the text and the image vector of each sample",
}


class Unit(NamedTuple):
    """Texts and images at one layer."""

    sides: Sides
    layer: int


@dataclass(frozen=True, kw_only=True)
class Gap(OnDevice, WithInterval, Prepared):
    """Quartiles of the cosines of text and image vectors, by layer."""

    text: str = TEXT
    image: str = IMAGE
    pairs: str = "unmatched"
    absolute: bool = False
    interval: str = "jackknife"

    measure: ClassVar[str] = "gap"

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = ["Modality gap", f"{self.pairs} pairs", *(["absolute"] if self.absolute else [])]
        asked += [self.preparation] if self.preparation else []
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        what = "absolute cosine" if self.absolute else "cosine"
        return f"Median {what} of text vectors and image vectors at each layer, with the interquartile band."

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            f"Modality gap (Serra et al., The Narrow Gate): quartiles of the cosines of {PAIRS[self.pairs]}, "
            f"counted in bins of 1e-6. Text: {self.text}. Image: {self.image}. Rows: {self.sql}. {self.source}"
            + f" {self.on_interval(WOODRUFF)}".rstrip()
            + self.computed
        )

    def _published(self, model: str) -> pl.DataFrame | None:
        """Of signed cosines."""
        return None if self.absolute else curves.gap(model)

    def units(self, store: Store, *, say: Say) -> list[Unit]:  # noqa: ARG002
        """The two sides under each condition, at every layer."""
        found = sides(store, self.sql, self.text, self.image)
        for one in found:
            if self.pairs != "all" and not one.paired:
                raise ActstoreError(
                    f"{one.text.height} texts and {one.image.height} images are not of the same samples, so which are "
                    "pairs is not known; take --pairs all"
                )
        return [Unit(one, layer) for one in found for layer in self.layers]

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """condition, layer, depth, q25, median, q75, low, high, pairs, absolute, n_text, n_image: one row.

        low, high: the 95 % interval of the median, of the jackknife over samples; NULL for fewer than 3.
        """
        (text, image), layer = (unit.sides.text, unit.sides.image), unit.layer
        found, reason = Quartiles(*[float("nan")] * 3), None
        ends: tuple[float | None, float | None] = (None, None)
        try:
            counts = self.counts(store, unit)
            found = quartiles(counts)
            if self.has_interval and min(text.height, image.height) > 2:
                ends = bounds(counts, self.shares(store, unit, found.median).error)
        except UndefinedError as error:
            reason = str(error)
        except held.NothingHeldError:
            raise
        except ActstoreError as error:
            raise ActstoreError(f"layer {layer}: {error}") from None
        return pl.DataFrame(
            {
                "condition": unit.sides.condition,
                "layer": pl.Series([layer], dtype=pl.Int32),
                "depth": depth(store, layer),
                "q25": found.q25,
                "median": found.median,
                "q75": found.q75,
                "low": pl.Series([ends[0]], dtype=pl.Float64),
                "high": pl.Series([ends[1]], dtype=pl.Float64),
                "pairs": self.pairs,
                "absolute": self.absolute,
                "n_text": text.height,
                "n_image": image.height,
                "reason": pl.Series([reason], dtype=pl.String),
            }
        )

    def shares(self, store: Store, unit: Unit, median: float) -> Shares:
        """How many pairs each sample is in, and in how many whose cosine is at most the median; samples in the order of
        their keys.
        """
        keys = pl.concat([unit.sides.text["key"], unit.sides.image["key"]]).rank("dense").to_numpy().astype(int) - 1
        samples = keys[: unit.sides.text.height], keys[unit.sides.text.height :]
        counted = partial(shares, most=median, samples=samples)
        return reduce(add, self._of_parts(store, unit, counted))

    def counts(self, store: Store, unit: Unit) -> NDArray[np.int64]:
        """How many pairs have their cosine in each bin."""
        return sum(self._of_parts(store, unit, cosine_counts), np.zeros(1, np.int64))

    def _of_parts(self, store: Store, unit: Unit, count: Callable[..., T]) -> Iterator[T]:
        """What is counted of the cosines of each part of the texts with each of the images: two are in memory."""
        device = devices.opened(self.device)
        size = max(1, PART_BYTES // (4 * store.header.d_model))
        mean = self._mean(store, unit, size) if self.center else None
        for i, texts in enumerate(unit.sides.text.iter_slices(size)):
            text = self.prepared(held.residual(store, texts, unit.layer), mean)
            for j, images in enumerate(unit.sides.image.iter_slices(size)):
                if (self.pairs == "matched" and i != j) or (self.pairs == "lower" and i < j):
                    continue
                image = self.prepared(held.residual(store, images, unit.layer), mean)
                starts = {"start": i * size, "image_start": j * size}
                try:
                    yield count(text, image, pairs=self.pairs, absolute=self.absolute, device=device, **starts)
                except ActstoreError as error:
                    where = f"texts from {i * size} and images from {j * size}: " if i or j else ""
                    raise type(error)(f"{where}{error}") from None

    def _mean(self, store: Store, unit: Unit, size: int) -> NDArray[np.float64]:
        """The mean vector (d,) of texts and images."""
        rows = pl.concat([unit.sides.text["row_id"], unit.sides.image["row_id"]]).to_frame()
        parts = (
            held.residual(store, part, unit.layer).sum(axis=0, dtype=np.float64) for part in rows.iter_slices(size)
        )
        mean: NDArray[np.float64] = np.sum(list(parts), axis=0) / rows.height
        return mean
