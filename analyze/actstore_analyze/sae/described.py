"""The features that stand for each sample at each layer, with their descriptions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.format.header import span
from actstore.store import Store
from actstore.store import open as open_store
from actstore_analyze import devices
from actstore_analyze.devices import Device
from actstore_analyze.sae import neuronpedia
from actstore_analyze.sae.features import Activity, top_features
from actstore_analyze.sae.groups import (
    OF_TEXT,
    Group,
    alone,
    groups_of,
    points_of,
    roles_of,
    say_models,
    untrained_groups,
    vectors,
)
from actstore_analyze.sae.measure import moments, rotation
from actstore_analyze.sae.neuronpedia import Descriptions
from actstore_analyze.sae.source import Source, numbered, source
from actstore_analyze.study import held
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import EVERYTHING, RESIDUAL, OnDevice, PerLayer

__all__ = ["Described"]

COUNT = 3  # features of a sample

Pieces = Iterator[tuple[pl.DataFrame, NDArray[np.float32]]]

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("role", "prompt_order", "condition", "control"), pl.String),
    "layer": pl.Int32,
    "sample_id": pl.String,
    "features": pl.List(pl.Int64),
    "activations": pl.List(pl.Float32),
    "descriptions": pl.List(pl.String),
}


@dataclass(frozen=True, kw_only=True)
class Described(OnDevice, PerLayer):
    """A call of `actstore describe`: the strongest described features of the first samples of each group.

    text: "alone" for words of prompts without an image alone, beside the image's tokens, as in the paper, or "all".
    """

    saes: str
    sae_id: str | None
    hook: str | None
    fingerprints: tuple[str, ...]
    descriptions: str
    description_fingerprints: tuple[str, ...]
    roles: tuple[str, ...]
    examples: int = 1000
    most_images: float = 0.05
    most_language: float = 0.005
    text: str = "alone"
    seed: int = 0
    untrained: str | None = None
    untrained_state: str | None = None

    measure: ClassVar[str] = "sae_features"
    verb: ClassVar[str] = "describe"

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        saes: str = "saes",
        descriptions: str = "descriptions",
        sae_id: str | None = None,
        hook: str | None = None,
        roles: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        untrained: Path | str | None = None,
        **asked: Any,
    ) -> Self:
        """The call with everything found and checked; without layers all that have vectors, SAE and descriptions."""
        found = source(saes, sae_id, hook)
        files = _files(descriptions, found)
        points = tuple(layer for layer in points_of(store, found, layers) if layer in files)
        if (layers is not None and set(points) < set(layers)) or not points:
            raise ActstoreError(
                f"{descriptions} describes layer {span(sorted(files))} (numbers read {found.read}), "
                f"not {span(layers or found.points)}"
            )
        return cls(
            saes=saes,
            sae_id=sae_id,
            hook=found.hook,
            fingerprints=tuple(found.fingerprints),
            descriptions=descriptions,
            description_fingerprints=tuple(neuronpedia.load(files[layer]).fingerprint for layer in points),
            roles=_roles(store, roles, **asked),
            layers=points,
            untrained=None if untrained is None else str(untrained),
            untrained_state=None if untrained is None else open_store(untrained).state,
            **asked,
        )

    @classmethod
    def again(cls, parameters: dict[str, Any]) -> Self:
        """The call that a saved result answers; one from before `text` took all."""
        return super().again({"text": "all", **parameters})

    @property
    def title(self) -> str:
        """What was chosen, as a heading."""
        return ", ".join(["Described features", *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the table shows."""
        return f"The strongest described features of each sample at each layer ({self.chosen})."

    @property
    def methods(self) -> str:
        """How they were chosen."""
        return (
            f"Features of autoencoders {self.saes}{f' {self.sae_id}' if self.sae_id else ''} that are active in at "
            f"most {self.most_images:.1%} of the samples and on {self.most_language:.1%} of language (Neuronpedia, "
            f"{self.descriptions}): of each of the first {self.examples:,} samples of a group the {COUNT} with the "
            f"largest activation on any of its tokens. Controls: the same of the vectors rotated by one random "
            f"orthogonal matrix (seed {self.seed}), and of Gaussian vectors of the group's mean and covariance"
            f"{f'; untrained: the same samples in {self.untrained}' if self.untrained else ''}. "
            f"{'Text: that of prompts without an image. ' if self.text == 'alone' else ''}"
            f"Rows: {self.sql}. Vectors: {RESIDUAL}.{self.computed}"
        )

    def command(self, store: Path | str) -> str:
        """The command line of the call, without what it found by itself."""
        return super(
            Described, replace(self, fingerprints=(), description_fingerprints=(), untrained_state=None)
        ).command(store)

    def units(self, store: Store, *, say: Say) -> list[int]:
        """The layers; first what can be wrong with the rows, and of several models' descriptions whose are taken."""
        untrained_groups(self.untrained, self.untrained_state, self._groups(store), self.sql)
        found = source(self.saes, self.sae_id, self.hook)
        say_models(store, found, say)
        files = _files(self.descriptions, found)
        several = {layer: files[layer] for layer in self.layers if len(neuronpedia.described_by(files[layer])) > 1}
        for layer, path in several.items():
            counts = neuronpedia.load(path).folders
            taken = ", ".join(f"{counts.get(one, 0)} of {one}" for one in neuronpedia.described_by(path))
            say(f"layer {layer}: features described by several models, the first of them counts: {taken}")
        return list(self.layers)

    def rows(self, store: Store, unit: int) -> pl.DataFrame:
        """SCHEMA: a row for each group, control and sample, at one layer."""
        saes = source(self.saes, self.sae_id, self.hook)
        sae = saes.load(unit, store.header.d_model, devices.opened(self.device))
        known = neuronpedia.load(_files(self.descriptions, saes)[unit])
        rows: list[tuple[object, ...]] = []
        for where, group, control, pieces in self._versions(store, unit, sae.n_features):
            found = Activity(group.samples, sae.n_features, self.examples)
            for own, x in pieces:
                found.add(own["example"].to_numpy().astype(np.int64), np.asarray(sae.encode(x)))
            allowed = self._allowed(known, sae.n_features) & (found.frequency <= self.most_images)
            rows += _rows(where, group, (control, unit), found, allowed, known)
        return pl.DataFrame(rows, schema=SCHEMA, orient="row")

    def _versions(self, store: Store, layer: int, n_features: int) -> Iterator[tuple[Store, Group, str, Pieces]]:
        """Each group as it is, and its controls."""
        groups = [group for group in self._groups(store) if held.holds(store, group.query, layer)]
        device = devices.opened(self.device)
        turn = device.put(rotation(store.header.d_model, self.seed).astype(np.float32))
        for group in groups:
            pieces = partial(vectors, store, group.query, layer, n_features=n_features)
            yield store, group, "none", pieces()
            yield store, group, "rotated", ((own, device.get(device.put(x) @ turn)) for own, x in pieces())
            if group.n > 1:
                yield store, group, "gaussian", _gaussian(pieces, self.seed, device)
        for other, group in untrained_groups(self.untrained, self.untrained_state, groups, self.sql):
            yield other, group, "untrained", vectors(other, group.query, layer, n_features=n_features)

    def _groups(self, store: Store) -> list[Group]:
        found = groups_of(store, self.sql, self.roles)
        return alone(found) if self.text == "alone" else found

    def _allowed(self, known: Descriptions, n_features: int) -> NDArray[np.bool_]:
        """Features with a description that are rare enough in language."""
        if max(known.of) >= n_features:
            raise ActstoreError(
                f"{self.descriptions} describes feature {max(known.of)}, the autoencoder has {n_features}: "
                "it is of another one"
            )
        allowed = np.zeros(n_features, np.bool_)
        allowed[[feature for feature, one in known.of.items() if one.density <= self.most_language]] = True
        return allowed


def _roles(
    store: Store, roles: Sequence[str] | None, *, sql: str = EVERYTHING, text: str = "alone", **_: object
) -> tuple[str, ...]:
    """The roles asked for; without any the usual ones, of text where some prompt has no image or `text` is "all"."""
    usual = roles_of(store, roles, sql)
    if roles is not None or text == "all":
        return usual
    of_text = {one.role for one in groups_of(store, sql, usual) if one.prompt_order in (None, "text")}
    return tuple(role for role in usual if role in of_text or not OF_TEXT.fullmatch(role)) or usual


def _gaussian(pieces: Callable[[], Pieces], seed: int, device: Device) -> Pieces:
    """Gaussian vectors of the mean and covariance of all, in the places of each piece."""
    whole = reduce(add, (moments(x, device=device) for _, x in pieces()))
    for number, (own, _) in enumerate(pieces()):
        drawn = whole.draw(own.height, (seed, number), device=device)
        yield own, np.concatenate(list(drawn)).astype(np.float32)


def _rows(
    store: Store, group: Group, place: tuple[str, int], found: Activity, allowed: NDArray[np.bool_], known: Descriptions
) -> list[tuple[object, ...]]:
    samples = store.sql(
        f"select distinct sample_id, example from ({group.query}) where example < {len(found.largest)} order by example"
    )["sample_id"]
    where = (group.role, group.prompt_order, group.condition, *place)
    tops = top_features(found.largest, allowed, count=COUNT)
    return [
        (*where, sample, top, [float(row[one]) for one in top], [known.of[one].text for one in top])
        for sample, top, row in zip(samples, tops, found.largest, strict=True)
    ]


def _files(described: str, found: Source) -> dict[int, Any]:
    """Descriptions by residual point: their numbers are those of the autoencoders."""
    numbers = numbered(described, "file of descriptions")
    return {found.of.get(number, number + (found.hook == "post")): path for number, path in numbers.items()}
