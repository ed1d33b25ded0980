"""Calls of `actstore gap`: the cosines between text and image vectors at each layer."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.gap import cosine_gap
from actstore_analyze.per_layer import EVERYTHING, Prepared, depth
from actstore_analyze.selection import Say
from actstore_analyze.sides import IMAGE, TEXT, Sides, sides

__all__ = ["Gap"]

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
class Gap(Prepared):
    """Quartiles of the cosines of text and image vectors, by layer."""

    text: str = TEXT
    image: str = IMAGE
    pairs: str = "unmatched"
    absolute: bool = False

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
        )

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
        """condition, layer, depth, q25, median, q75, pairs, absolute, n_text, n_image: one row."""
        (text, image), layer = (unit.sides.text, unit.sides.image), unit.layer
        x = self.prepared(store.residual(pl.concat([text["row_id"], image["row_id"]]).to_frame(), layer))
        try:
            found = cosine_gap(*np.split(x, [text.height]), pairs=self.pairs, absolute=self.absolute)
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
                "pairs": self.pairs,
                "absolute": self.absolute,
                "n_text": text.height,
                "n_image": image.height,
            }
        )
