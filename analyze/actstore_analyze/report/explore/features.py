"""SAE features of points: the strongest of each, and where in its picture they are active."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.report.explore.pictures import places_of
from actstore_analyze.report.explore.view import View
from actstore_analyze.sae.formats import Sized
from actstore_analyze.sae.groups import other_model
from actstore_analyze.sae.source import Source

__all__ = ["STRONGEST", "Feature", "Features"]

STRONGEST = 8
NONE = "no autoencoders are named: actstore explore --saes SAES, or saes in Python"
FEW = 100  # samples, that SQL names one by one
ACTIVE_BYTES = 2**26  # of activations at a time

Feature = tuple[int, float, str | None]  # number, activation, and by cell of the picture a byte, 255 at its largest


@dataclass
class Features:
    """Features by these autoencoders, of which one at a time is held."""

    saes: Source | None
    _held: dict[tuple[int, int], Sized] = field(default_factory=dict, repr=False)

    def layers(self, store: Store) -> list[int]:
        """The layers of a store that have an autoencoder."""
        return [] if self.saes is None else [point for point in self.saes.points if point in store.layers]

    def said(self, store: Store) -> str:
        """Why a layer shows none."""
        if self.saes is None:
            return NONE
        kept = ", ".join(map(str, self.layers(store))) or "none that the store keeps"
        return f"{self.saes.name} has autoencoders of layers {kept}"

    def other_model(self, store: Store) -> str | None:
        """What to say of autoencoders of another model than the store's; None where they are of one of its name."""
        return None if self.saes is None else other_model(store, self.saes)

    def width(self, store: Store) -> int:
        """How many features an autoencoder has; 0 where the store keeps no layer of any."""
        layers = self.layers(store)
        return self._sae(store, layers[0]).n_features if layers else 0

    def strongest(self, view: View, layer: int, points: Sequence[int], *, cells: bool = True) -> list[list[Feature]]:
        """Of each of these points its strongest features, and without `cells` not where they are active."""
        if layer not in self.layers(view.store):
            return [[] for _ in points]
        sae, found = self._sae(view.store, layer), []
        for some in _blocks(points, sae.n_features):
            active = np.asarray(sae.encode(view.vectors(layer)[some]))
            best = np.argsort(-active, axis=1, kind="stable")[:, :STRONGEST]
            found += [
                [(int(one), round(float(row[one]), 4)) for one in own if row[one] > 0]
                for row, own in zip(active, best, strict=True)
            ]
        if not cells or layer < view.store.header.image_from:
            return [[(*one, None) for one in own] for own in found]
        return self._in_pictures(view, layer, points, found)

    def _sae(self, store: Store, layer: int) -> Sized:
        assert self.saes is not None
        key = store.header.d_model, layer
        if key not in self._held:
            self._held.clear()
            self._held[key] = self.saes.load(layer, store.header.d_model)
        return self._held[key]

    def _in_pictures(
        self, view: View, layer: int, points: Sequence[int], found: list[list[tuple[int, float]]]
    ) -> list[list[Feature]]:
        """The features of each point with their activations on the cells of its one picture, None where it has none."""
        sae, own = self._sae(view.store, layer), view.rows[list(points)]
        made: list[list[Feature]] = [[(*one, None) for one in each] for each in found]
        of: dict[tuple[str, str], list[int]] = {}
        for i, key in enumerate(own.select("sample_id", "condition").iter_rows()):
            of.setdefault(key, []).append(i)
        pictures = []
        tokens = image_tokens(view.store, sorted({name for name, _ in of}))
        for key, rows in tokens.partition_by("sample_id", "condition", as_dict=True, maintain_order=True).items():
            here = of.get((str(key[0]), str(key[1])), [])
            places = places_of(own.row(here[0], named=True), rows["position"].to_list()) if here else []
            if len(places) == 1 and places[0] is not None:
                pictures.append((here, rows))
        for some in _blocks(
            range(len(pictures)), sae.n_features * max((rows.height for _, rows in pictures), default=1)
        ):
            active = np.asarray(sae.encode(view.store.residual(pl.concat([pictures[i][1] for i in some]), layer)))
            for i in some:
                here, rows = pictures[i]
                for point in here:
                    made[point] = [(one, value, _bytes(active[: rows.height, one])) for one, value in found[point]]
                active = active[rows.height :]
        return made


def image_tokens(store: Store, names: Sequence[str]) -> pl.DataFrame:
    """The rows of the image tokens of these samples, in the order of their cells; none where role `image` is not
    kept."""
    if "image" not in store.roles:
        return pl.DataFrame(
            schema={"row_id": pl.Int64, "sample_id": pl.String, "condition": pl.String, "position": pl.Int64}
        )
    few = f" and sample_id in ({', '.join(map(literal, names))})" if len(names) < FEW else ""
    rows = store.sql(
        f"select row_id, sample_id, condition, position from rows where role = 'image'{few} "
        "order by sample_id, condition, k"
    )
    return rows.filter(pl.col("sample_id").is_in(names))


def _blocks(points: Sequence[int], width: int) -> Iterator[list[int]]:
    """The points, so many at a time as their activations may take memory."""
    per = max(1, ACTIVE_BYTES // (4 * width))
    for start in range(0, len(points), per):
        yield list(points[start : start + per])


def _bytes(active: NDArray[Any]) -> str:
    """Activations as bytes, 255 the largest."""
    most = float(active.max())
    return b64encode(
        np.rint(active / most * 255 if most > 0 else np.zeros_like(active)).astype(np.uint8).tobytes()
    ).decode()
