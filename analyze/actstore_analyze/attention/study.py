"""Calls of `actstore attention`: where in the image the text looks, at each layer."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.attention import bands
from actstore_analyze.attention.measure import cross_modal_from_mass, singled_out
from actstore_analyze.published import curves
from actstore_analyze.study import held, pieces
from actstore_analyze.study.intervals import LeftOut, jackknifed
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import EVERYTHING, WithInterval, depth, n_layers
from actstore_analyze.study.summed import Missing, States, Summed, add, totals

__all__ = ["INTERNAL", "CrossModal", "Unit", "masses", "names"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INTERNAL = "internal image"  # the positions that no single one of which draws much
USUAL_THRESHOLD = 0.01
MOST_SINGLED = 6  # besides those that are named: more bands than that do not read
NO_MASS = (
    "{}: no attention mass is stored{}; extract it with: actstore extract RECIPE STORE --set capture.mass=true "
    "(in a recipe: [capture] mass = true)"
)
COLUMNS_ALONE = ", only attention to {}, whose shares cannot be told without that to the rest of the image"
JACKKNIFE = "Interval of a share: 95 %, of the jackknife over samples, normal on the scale of logits."
BAND = ("condition", "layer", "name")
KEY = ("sample_id", "condition")
MASS = "attention/mass"


class Unit(NamedTuple):
    """Samples of one condition whose image parts are of one length, at one layer.

    spans: sample_id, condition, first, last: the positions looked at. start: first of all, None where they differ.
    called: names of positions, counted from the first that is looked at.
    """

    condition: str
    spans: pl.DataFrame
    start: int | None
    called: dict[int, str]
    layer: int


class Place(NamedTuple):
    """Samples of a part of the store, by its number: their places in its arrays (n,), and the first positions (n,)."""

    part: int
    at: Ints
    first: Ints


class Piece(NamedTuple):
    """Some parts, of units whose numbers these are by layer; so many positions are looked at.

    bands: of each position the number of its band, where samples are summed up by those.
    """

    places: list[Place]
    numbers: dict[int, int]
    length: int
    bands: Ints | None = None


@dataclass(frozen=True)
class Mass:
    """Attention (positions,) of the text of samples, summed over samples."""

    total: Floats

    def __add__(self, other: "Mass") -> "Mass":
        return Mass(self.total + other.total)


@dataclass(frozen=True)
class Banded:
    """Attention (samples, bands) of each sample's text."""

    each: Floats

    def __add__(self, other: "Banded") -> "Banded":
        return Banded(np.concatenate([self.each, other.each]))


@dataclass(frozen=True, kw_only=True)
class CrossModal(WithInterval, Summed):
    """The shares of the text's attention to the image that single positions and the rest of the image draw.

    names: roles whose positions are set apart whatever they draw, several positions of one as one band; a position of
    two names counts under the first. threshold: the share, averaged over layers, above which another position stands
    alone; None: 1 %, as in The Narrow Gate, or 2 / n where that is more, since an even spread over n positions
    already gives 1 / n to each. The image part begins behind what begins the image, with its size where the model is
    told that (Emu3), as the authors' code has it; keep_boi: there, as the paper's formula; keep_initial: at 0. picture:
    of several the one that is looked at, from 1, among whose positions the shares are.
    """

    names: tuple[str, ...] = bands.OTHERS
    threshold: float | None = None
    keep_boi: bool = False
    keep_initial: bool = False
    picture: int | None = None
    interval: str = "jackknife"

    measure: ClassVar[str] = "attention"
    state_of: ClassVar[type[Mass]] = Mass

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        layers: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        picture: int | None = None,
        **asked: Any,
    ) -> Self:
        """The call with its layers and names checked; raises ActstoreError for a store without attention mass."""
        kept = {name for commit in store.commits for name in commit.arrays if name.startswith("attention/")}
        if "attention/mass" not in kept:
            columns = ", ".join(sorted(name.removeprefix("attention/") for name in kept))
            raise ActstoreError(NO_MASS.format(store, COLUMNS_ALONE.format(columns) if columns else ""))
        if picture is not None and "pictures" not in store.sql("from samples limit 0").columns:
            raise ActstoreError(f"the samples of {store} have one picture each; leave out --picture")
        if picture is not None and asked.get("keep_initial"):
            raise ActstoreError("in front of a picture are others: take --picture or --keep-initial, not both")
        blocks = n_layers(store)
        asked_for = [layer for layer in store.layers if layer < blocks] if layers is None else layers
        if blocks in asked_for:
            raise ActstoreError(
                f"layer {blocks} is the output of the last block, where nothing attends; take 0..{blocks - 1}"
            )
        if not asked_for:
            raise ActstoreError(
                f"{store} keeps layer {blocks} alone, the output of the last block, where nothing attends; "
                "extract it with others, which attention is kept at: [capture] layers"
            )
        called = bands.known(store, names, picture)
        return super().of(store, layers=asked_for, names=called, picture=picture, **asked)

    @property
    def parameters(self) -> dict[str, Any]:
        """As they are kept with the result: without a picture where none is chosen, as before one could be."""
        return {name: value for name, value in super().parameters.items() if (name, value) != ("picture", None)}

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        kept = "initial tokens kept" if self.keep_initial else "beginning of the image kept" if self.keep_boi else None
        asked = ["Cross-modal attention", *([kept] if kept else [])]
        asked += [] if self.picture is None else [f"picture {self.picture}"]
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            "Where the text's attention to the image goes in each block, numbered by the layer it reads; shares sum "
            f"to 1. Positions that draw little each are taken together as “{INTERNAL}”."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        usual = "1 %, or than twice an even share where the image part has fewer than 200 positions,"
        least = usual if self.threshold is None else f"{self.threshold:g}"
        initial = "Tokens before the image are kept" if self.keep_initial else "Tokens before the image are left out"
        if self.keep_boi and not self.keep_initial:
            initial += " up to the one that begins it"
        return (
            "Cross-modal attention f (Serra et al., The Narrow Gate): the attention, after the softmax, of all text "
            "after the image to each position up to the end of the image, averaged over heads, summed over text tokens "
            f"and samples, then normalised. {initial}. Set apart: {', '.join(self.names) or 'nothing by name'}, where "
            f"samples have it, and up to {MOST_SINGLED} positions that draw more than {least} on average over layers. "
            f"{self.on_interval(JACKKNIFE)}Samples: those of {self.sql}."
        )

    def _published(self, model: str) -> pl.DataFrame | None:
        return curves.attention(model)

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """The samples under each condition, at every layer."""
        found = []
        named = tuple(dict.fromkeys((*self.names, *bands.OTHERS)))
        places = bands.places(store, named, self.picture)
        for (condition,), spans in self._spans(store).group_by("condition", maintain_order=True):
            kept, start = _alike(spans, str(condition), say)
            called = _called(kept, places, named, say)
            found += [Unit(str(condition), kept.select(*KEY, "first", "last"), start, called, i) for i in self.layers]
        attending = _attending(store, self.layers)
        without = ", ".join(str(layer) for layer in self.layers if layer not in attending)
        if not attending:
            raise ActstoreError(f"{store}: the model has no attention in blocks {without}; choose other --layers")
        if without:
            say(f"the model has no attention in blocks {without}, which are left out")
        return [unit for unit in found if unit.layer in attending]

    def _spans(self, store: Store) -> pl.DataFrame:
        """Of each sample with text after its image: sample_id, condition, eoi, first, last."""
        query = self.sql.strip().rstrip(";")
        start = "0" if self.keep_initial else f"coalesce(s.boi{'' if self.keep_boi else ' + 1'}, s.image_start)"
        spans = store.sql(
            f"select s.sample_id, s.condition, s.eoi, {start} as first, coalesce(s.eoi, s.image_end) as last "
            f"from {bands.samples_of(self.picture)} s semi join (select r.sample_id, r.condition from rows r semi join "
            f"(\n{query}\n) q on r.row_id = q.row_id) c using (sample_id, condition) where s.status = 'ok' "
            "and s.image_start is not null and s.length > s.images_end + 1 "
            "order by s.condition, s.sample_id"
        )
        if self.picture is None:
            self._check_single(store, spans)
        if not spans.height:
            raise ActstoreError("nothing to measure: the query selects no samples with text after their image")
        return spans

    def _check_single(self, store: Store, spans: pl.DataFrame) -> None:
        """Raise ActstoreError for samples of several pictures, which have no one image part."""
        samples = store.sql("from samples limit 0").columns
        several = store.sql("select sample_id from samples where len(pictures) > 1") if "pictures" in samples else None
        found = [] if several is None else spans.join(several, on="sample_id", how="semi")["sample_id"].to_list()
        if found:
            raise ActstoreError(
                f"{found[0]} has several pictures ({len(found)} of {spans.height} samples do), and shares are those of "
                "one: choose it, --picture 1"
            )

    def pieces(self, store: Store, units: Sequence[Unit]) -> list[Piece]:
        """Some parts of the store, of all layers."""
        found = []
        for _, each in groupby(enumerate(units), key=lambda one: one[1].condition):
            own = {unit.layer: (number, unit) for number, unit in each}
            unit = next(iter(own.values()))[1]
            numbers = {layer: number for layer, (number, _) in own.items()}
            found += [Piece(some, numbers, _length(unit)) for some in _together(store, _places(store, unit), len(own))]
        return found

    def states(self, store: Store, piece: Piece) -> States[Mass]:
        """The mass at each layer."""
        found: States[Mass] = {}
        for layer, number in piece.numbers.items():
            if layer < store.header.image_from:
                found[number] = held.NothingHeldError(held.left_out(store))
        for layer, mass in _masses(store, piece, [one for one in piece.numbers if one >= store.header.image_from]):
            add(found, piece.numbers[layer], Mass(mass.sum(axis=0, dtype=np.float64)))
        return found

    def banded(self, store: Store, piece: Piece) -> States[Banded]:
        """The mass of each sample in each band, at each layer."""
        found: States[Banded] = {}
        bands = piece.bands
        assert bands is not None, "these pieces have bands"
        for layer, mass in _masses(store, piece, [*piece.numbers]):
            each = [mass[:, bands == band].sum(axis=1) for band in range(bands.max() + 1)]
            add(found, piece.numbers[layer], Banded(np.column_stack(each).astype(np.float64)))
        return found

    def row(self, store: Store, unit: Unit, total: Mass) -> pl.DataFrame:
        """condition, layer, depth, name, position, share, n: a row for each position."""
        f = cross_modal_from_mass(total.total[None, None], _length(unit) - 1, initial=0)
        called, positions = names(unit, f.shape[1])
        place = {"condition": unit.condition, "layer": unit.layer, "depth": depth(store, unit.layer)}
        return pl.DataFrame(
            {"name": called, "position": positions, "share": f[0]},
            schema={"name": pl.String, "position": pl.Int32, "share": pl.Float64},
        ).select(*(pl.lit(value).alias(name) for name, value in place.items()), pl.all(), n=pl.lit(unit.spans.height))

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """condition, layer, depth, name, position, positions, share, low, high, n: singled-out positions, then the rest
        as one.

        low, high: 95 % interval, of the jackknife over samples; NULL for a share of 0 or 1, and for one sample.
        """
        table = super().table(store, say=say)
        told = table.group_by("condition").agg(pl.col("name").unique())
        named = {condition: {*names} for condition, names in told.iter_rows()}
        units = self.units(store, say=lambda _: None) if self.has_interval else []
        units = [unit for unit in units if unit.layer >= store.header.image_from]
        ends = pl.DataFrame(schema={**{one: table.schema[one] for one in BAND}, "low": pl.Float64, "high": pl.Float64})
        bands = [_bands(unit, named[unit.condition]) for unit in units]
        cut = [piece._replace(bands=bands[min(piece.numbers.values())][1]) for piece in self.pieces(store, units)]
        each = totals(self, store, self.banded, cut, Banded) if cut else {}
        found = [_ends(unit, bands[number][0], each[number]) for number, unit in enumerate(units)]
        joined = table.join(pl.concat([ends, *found]), on=BAND, how="left", maintain_order="left")
        return joined.select(pl.exclude("n"), "n")

    def finish(self, rows: pl.DataFrame) -> pl.DataFrame:
        """As the table, without intervals."""
        return pl.concat(self._told_apart(own) for _, own in rows.group_by("condition", maintain_order=True))

    def _told_apart(self, rows: pl.DataFrame) -> pl.DataFrame:
        names = rows.filter(pl.col("layer") == rows["layer"][0])["name"].to_list()
        f = rows["share"].to_numpy().reshape(-1, len(names))
        threshold = max(USUAL_THRESHOLD, 2 / len(names)) if self.threshold is None else self.threshold
        drawing = [i for i in singled_out(f, threshold=threshold, initial=0) if names[i] not in self.names]
        most = sorted(drawing, key=lambda i: -f[:, i].mean())[:MOST_SINGLED]
        alone = {*self.names, *(names[i] for i in most)}
        name = pl.when(pl.col("name").is_in(alone)).then("name").otherwise(pl.lit(INTERNAL)).alias("name")
        single = pl.when(pl.len() == 1).then(pl.col("position").first()).alias("position")
        return (
            rows.group_by("condition", "layer", "depth", name, maintain_order=True)
            .agg(
                single, pl.len().cast(pl.Int32).alias("positions"), pl.col("share").sum(), pl.col("n").first(),
                begins=pl.col("position").min(),
            )
            .sort("layer", pl.col("name") == INTERNAL, "begins", maintain_order=True)
            .drop("begins")
        )  # fmt: skip


def _alike(spans: pl.DataFrame, condition: str, say: Say) -> tuple[pl.DataFrame, int | None]:
    """The samples with the commonest length of image part, and where it begins, None where that differs."""
    layout = pl.struct(length=pl.col("last") - pl.col("first"), eoi=pl.col("eoi").is_null())
    common = spans.group_by(layout.alias("layout")).len().sort("len", "layout", descending=True)["layout"][0]
    kept = spans.filter(layout == pl.lit(common))
    if kept.height < spans.height:
        say(
            f"condition '{condition}': image parts of several lengths; measured {kept.height} samples of "
            f"{common['length'] + 1} positions, left out {spans.height - kept.height}"
        )
    return kept, int(kept["first"][0]) if kept["first"].n_unique() == 1 else None


def _called(spans: pl.DataFrame, places: pl.DataFrame, named: Sequence[str], say: Say) -> dict[int, str]:
    """The name of each position that has one, counted from the first looked at; of several the first in `named`."""
    offset = pl.col("position").cast(pl.Int64) - pl.col("first")
    inside = places.join(spans, on=KEY).filter(pl.col("position").is_between("first", "last"))
    counted = inside.group_by("name", offset.alias("offset")).agg(pl.col("sample_id").len().alias("samples"))
    called: dict[int, str] = {}
    for name in named:
        own = counted.filter(pl.col("name") == name)
        if (own["samples"] < spans.height).any():
            say(f"condition '{spans['condition'][0]}': {name} is at other places in other samples; not set apart")
            continue
        called = {**dict.fromkeys(own["offset"].sort(), name), **called}
    return called


def _attending(store: Store, layers: Sequence[int]) -> list[int]:
    """Those of the layers that attention reads: in other blocks, such as a state space, all of it is NaN."""
    left = [*layers]
    for part in store.parts:
        if left and MASS in part.commit.arrays:
            mass = part.array(MASS).layers([*map(store.header.layer_index, left)])
            left = [layer for layer, own in zip(left, mass, strict=True) if not np.isfinite(own).any()]
    return [layer for layer in layers if layer not in left]


def _bands(unit: Unit, named: set[str]) -> tuple[list[str], Ints]:
    """Names of bands, and of each position the number of its own."""
    called, _ = names(unit, _length(unit))
    kinds, bands = np.unique([name if name in named else INTERNAL for name in called], return_inverse=True)
    return kinds.tolist(), bands


def _ends(unit: Unit, kinds: Sequence[str], banded: Banded | Missing) -> pl.DataFrame:
    """BAND, low, high of the bands at one layer."""
    assert isinstance(banded, Banded), "layers that hold nothing were left out"
    each = banded.each
    sums, whole = each.sum(axis=0), each.sum()
    without = (sums - each) / (whole - each.sum(axis=1, keepdims=True)) if len(each) > 1 else each
    rows = []
    for name, share, left in zip(kinds, (sums / whole).tolist(), without.T, strict=True):
        ends = jackknifed(share, LeftOut(left)) if 0 < share < 1 and len(each) > 1 else (None, None)
        rows.append((unit.condition, unit.layer, name, *ends))
    return pl.DataFrame(
        rows,
        schema={"condition": pl.String, "layer": pl.Int32, "name": pl.String, "low": pl.Float64, "high": pl.Float64},
        orient="row",
    )


def _length(unit: Unit) -> int:
    """How many positions are looked at."""
    return int(unit.spans["last"][0] - unit.spans["first"][0]) + 1


def _places(store: Store, unit: Unit) -> dict[int, pl.DataFrame]:
    """Of parts, by their number, the samples of a unit, with `at`, the place of each."""
    found: dict[int, pl.DataFrame] = {}
    for number, part in enumerate(store.parts):
        if MASS in part.commit.arrays:
            own = part.samples().select(KEY).with_row_index("at").join(unit.spans, on=KEY, how="inner")
            found |= {number: own} if own.height else {}
    if (n := sum(own.height for own in found.values())) < unit.spans.height:
        raise ActstoreError(f"layer {unit.layer}: attention mass is stored of {n} of {unit.spans.height} samples")
    return found


def _together(store: Store, places: dict[int, pl.DataFrame], n_layers: int) -> Iterator[list[Place]]:
    """Parts that are read as one piece."""
    each = {number: 4 * n_layers * math.prod(store.parts[number].commit.arrays[MASS].shape[1:]) for number in places}
    most, filled = pieces.size(sum(each.values())), 0
    some: list[Place] = []
    for number, own in places.items():
        if some and filled + each[number] > most:
            yield some
            some, filled = [], 0
        some.append(Place(number, own["at"].cast(pl.Int64).to_numpy(), own["first"].cast(pl.Int64).to_numpy()))
        filled += each[number]
    yield some


def _masses(store: Store, piece: Piece, layers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Each layer with the attention (samples, positions) of the samples of a part, part after part."""
    for place in piece.places:
        array = store.parts[place.part].array(MASS)
        step = max(1, pieces.BLOCK_BYTES // (4 * math.prod(array.spec.shape[1:])))
        columns = place.first[:, None] + np.arange(piece.length)
        for start in range(0, len(layers), step):
            some = layers[start : start + step]
            for layer, mass in zip(some, array.layers([*map(store.header.layer_index, some)]), strict=True):
                yield layer, mass[place.at[:, None], columns]


def masses(store: Store, unit: Unit) -> Iterator[tuple[list[str], NDArray[np.floating]]]:
    """Samples, and the attention (samples, positions) of their text, aligned at the first position looked at: a part at
    a time.
    """
    for number, own in _places(store, unit).items():
        place = Place(number, own["at"].cast(pl.Int64).to_numpy(), own["first"].cast(pl.Int64).to_numpy())
        for _, mass in _masses(store, Piece([place], {}, _length(unit)), [unit.layer]):
            yield own["sample_id"].to_list(), mass


def names(unit: Unit, count: int) -> tuple[list[str], list[int]]:
    """The name of each position, and its place from the beginning of the sample, or of the image where that differs."""
    start = unit.start or 0
    places = list(range(start, start + count))
    prefix = "image+" if unit.start is None else "at-"
    return [unit.called.get(i, f"{prefix}{place}") for i, place in enumerate(places)], places
