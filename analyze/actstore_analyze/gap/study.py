"""Calls of `actstore gap`: the cosines between text and image vectors at each layer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import ClassVar, NamedTuple

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
from actstore_analyze.study.summed import Missing, S, States, Summed, there, total, totals

__all__ = ["Gap", "Unit"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]
PART_BYTES = 1 << 28  # of texts or images in memory at a time; of several layers of both
MOST_LAYERS = 8  # of a piece: counts of each are 16 MB
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


class Some(NamedTuple):
    """Some rows (n,) of the units of these numbers, by layer."""

    numbers: dict[int, int]
    row_ids: Ints


class Piece(NamedTuple):
    """Some texts and some images of the units of these numbers, by layer; means (d,): of all, where they are taken off.

    start, image_start: the first of either among all. most: the cosines up to which pairs are counted, of samples: the
    sample of each of all texts and of all images.
    """

    numbers: dict[int, int]
    text: Ints
    image: Ints
    start: int
    image_start: int
    means: dict[int, Floats]
    most: dict[int, float] | None = None
    samples: tuple[Ints, Ints] | None = None


class Found(NamedTuple):
    """Quartiles, and the 95 % interval of the median, where it has one."""

    quartiles: Quartiles
    ends: tuple[float, float] | None


@dataclass(frozen=True)
class Counts:
    """How many pairs have their cosine in each bin."""

    bins: Ints

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.bins + other.bins)


@dataclass(frozen=True)
class Mean:
    """The sum (d,) of n vectors."""

    vectors: Floats
    n: Ints

    @classmethod
    def of(cls, x: Vectors) -> "Mean":
        """Of vectors (n, d)."""
        return cls(x.sum(axis=0, dtype=np.float64), np.array(len(x)))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.vectors + other.vectors, self.n + other.n)


@dataclass(frozen=True, kw_only=True)
class Gap(OnDevice, WithInterval, Prepared, Summed):
    """Quartiles of the cosines of text and image vectors, by layer."""

    text: str = TEXT
    image: str = IMAGE
    pairs: str = "unmatched"
    absolute: bool = False
    interval: str = "jackknife"

    measure: ClassVar[str] = "gap"
    state_of: ClassVar[type[Counts]] = Counts

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

    def pieces(self, store: Store, units: Sequence[Unit]) -> list[Piece]:
        """Some texts with some images; where the mean is taken off, it is summed up first."""
        return self._pieces(store, units, lambda some: totals(self, store, self.sums, some, Mean))

    def states(self, store: Store, piece: Piece) -> States[Counts]:
        """The counts of the cosines."""
        return self._of(store, piece, lambda _, x, y, **more: Counts(cosine_counts(x, y, **more)))

    def shared(self, store: Store, piece: Piece) -> States[Shares]:
        """The shares of samples."""
        most, samples = piece.most, piece.samples
        assert most is not None, "these pieces have cosines"
        assert samples is not None, "these pieces have samples"
        return self._of(store, piece, lambda layer, x, y, **more: shares(x, y, most[layer], samples, **more))

    def sums(self, store: Store, some: Some) -> States[Mean]:
        """What the mean vectors are made of."""
        found: States[Mean] = {}
        for layer, x in held.by_layer(store, some.row_ids, [*some.numbers]):
            number = some.numbers[layer]
            found[number] = x if isinstance(x, held.NothingHeldError) else Mean.of(np.ascontiguousarray(x))
        return found

    def summed(self, store: Store, units: Sequence[Unit]) -> dict[int, Found | Missing]:
        """Quartiles, of counts; then the interval of the median, of the shares of what is below it."""
        cut = self.pieces(store, units)
        counts = totals(self, store, self.states, cut, Counts)
        found = {number: _quartiles(units[number], own) for number, own in counts.items() if isinstance(own, Counts)}
        samples = {number: _samples(units[number]) for number in found if self.has_interval}
        asked = {number: own for number, own in samples.items() if min(map(len, own)) > 2}
        below = [_below(piece, {number: found[number].median for number in asked}, asked) for piece in cut]
        parts = totals(self, store, self.shared, [piece for piece in below if piece.numbers], Shares) if asked else {}
        told: dict[int, Found | Missing] = {}
        for number, own in counts.items():
            part = parts.get(number)
            ends = bounds(own.bins, part.error) if isinstance(own, Counts) and isinstance(part, Shares) else None
            told[number] = Found(found[number], ends) if isinstance(own, Counts) else own
        return told

    def counts(self, store: Store, unit: Unit) -> Ints:
        """How many pairs have their cosine in each bin."""
        return there(*total(self.states(store, piece) for piece in self._alone(store, unit)).values()).bins

    def shares(self, store: Store, unit: Unit, median: float) -> Shares:
        """How many pairs each sample is in, and in how many whose cosine is at most the median; samples in the order of
        their keys.
        """
        samples = _samples(unit)
        asked = (_below(piece, {0: median}, {0: samples}) for piece in self._alone(store, unit))
        return there(*total(self.shared(store, piece) for piece in asked).values())

    def _alone(self, store: Store, unit: Unit) -> list[Piece]:
        """The pieces of one unit, in this process."""
        return self._pieces(store, [unit], lambda each: total(self.sums(store, some) for some in each))

    def _pieces(self, store: Store, units: Sequence[Unit], sums: Callable[[list[Some]], States[Mean]]) -> list[Piece]:
        size = max(1, PART_BYTES // (4 * store.header.d_model))
        by_condition = [
            {unit.layer: number for number, unit in own}
            for _, own in groupby(enumerate(units), lambda one: one[1].sides.condition)
        ]
        sides = [units[min(own.values())].sides for own in by_condition]
        pairs = [(one.text["row_id"].to_numpy(), one.image["row_id"].to_numpy()) for one in sides]
        some = [
            Some(numbers, rows[start : start + size])
            for own, pair in zip(by_condition, pairs, strict=True)
            for rows in [np.concatenate(pair)]
            for start in range(0, len(rows), size)
            for numbers in _some_layers(store, own, len(rows[start : start + size]))
        ]
        means = sums(some) if self.center else {}
        known = {number: own.vectors / own.n for number, own in means.items() if isinstance(own, Mean)}
        found = []
        for own, (text, image) in zip(by_condition, pairs, strict=True):
            for i, j in product(range(0, len(text), size), range(0, len(image), size)):
                if (self.pairs == "matched" and i != j) or (self.pairs == "lower" and i < j):
                    continue
                texts, images = text[i : i + size], image[j : j + size]
                for numbers in _some_layers(store, own, len(texts) + len(images)):
                    of = {layer: known[number] for layer, number in numbers.items() if number in known}
                    found.append(Piece(numbers, texts, images, i, j, of))
        return found

    def _of(self, store: Store, piece: Piece, count: Callable[..., S]) -> States[S]:
        """What is counted of the cosines of a piece, of a layer and its vectors."""
        sides = [dict(held.by_layer(store, rows, [*piece.numbers])) for rows in (piece.text, piece.image)]
        starts = {"start": piece.start, "image_start": piece.image_start}
        more = {"pairs": self.pairs, "absolute": self.absolute, "device": devices.opened(self.device), **starts}
        where = f"texts from {piece.start} and images from {piece.image_start}: " if any(starts.values()) else ""
        found: States[S] = {}
        for layer, number in piece.numbers.items():
            try:
                text, image = (self._prepared(side[layer], piece.means.get(layer)) for side in sides)
                found[number] = count(layer, text, image, **more)
            except held.NothingHeldError as error:
                found[number] = error
            except UndefinedError as error:
                found[number] = UndefinedError(f"{where}{error}")
            except ActstoreError as error:
                raise ActstoreError(f"layer {layer}: {where}{error}") from None
        return found

    def _prepared(self, x: Vectors | held.NothingHeldError, mean: Floats | None) -> Vectors:
        """The vectors of a layer as they are measured; raises why they hold nothing."""
        if isinstance(x, held.NothingHeldError):
            raise x
        return self.prepared(np.ascontiguousarray(x), mean)

    def row(self, store: Store, unit: Unit, total: Found | UndefinedError) -> pl.DataFrame:
        """condition, layer, depth, q25, median, q75, low, high, pairs, absolute, n_text, n_image: one row.

        low, high: the 95 % interval of the median, of the jackknife over samples; NULL for fewer than 3.
        """
        (text, image), layer = (unit.sides.text, unit.sides.image), unit.layer
        nothing = Found(Quartiles(*[float("nan")] * 3), None)
        found, ends = nothing if isinstance(total, UndefinedError) else total
        low, high = ends or (None, None)
        reason = str(total) if isinstance(total, UndefinedError) else None
        return pl.DataFrame(
            {
                "condition": unit.sides.condition,
                "layer": pl.Series([layer], dtype=pl.Int32),
                "depth": depth(store, layer),
                "q25": found.q25,
                "median": found.median,
                "q75": found.q75,
                "low": pl.Series([low], dtype=pl.Float64),
                "high": pl.Series([high], dtype=pl.Float64),
                "pairs": self.pairs,
                "absolute": self.absolute,
                "n_text": text.height,
                "n_image": image.height,
                "reason": pl.Series([reason], dtype=pl.String),
            }
        )


def _some_layers(store: Store, numbers: dict[int, int], n_rows: int) -> Iterator[dict[int, int]]:
    """Layers of so many rows that are read together."""
    step = min(MOST_LAYERS, max(1, PART_BYTES // (4 * store.header.d_model * n_rows)))
    for start in range(0, len(numbers), step):
        yield dict([*numbers.items()][start : start + step])


def _below(piece: Piece, most: dict[int, float], samples: dict[int, tuple[Ints, Ints]]) -> Piece:
    """The piece at layers whose units have a median, for the shares of samples."""
    numbers = {layer: number for layer, number in piece.numbers.items() if number in samples}
    own = next((samples[number] for number in numbers.values()), None)
    return piece._replace(numbers=numbers, most={layer: most[n] for layer, n in numbers.items()}, samples=own)


def _quartiles(unit: Unit, counts: Counts) -> Quartiles:
    try:
        return quartiles(counts.bins)
    except ActstoreError as error:
        raise ActstoreError(f"layer {unit.layer}: {error}") from None


def _samples(unit: Unit) -> tuple[Ints, Ints]:
    """The sample of each text and of each image, in the order of their keys."""
    keys = pl.concat([unit.sides.text["key"], unit.sides.image["key"]]).rank("dense").to_numpy().astype(int) - 1
    return keys[: unit.sides.text.height], keys[unit.sides.text.height :]
