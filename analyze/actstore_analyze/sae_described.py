"""The features that stand for each sample at each layer, with their descriptions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.header import span
from actstore.store import Store
from actstore_analyze import neuronpedia
from actstore_analyze.neuronpedia import Descriptions
from actstore_analyze.per_layer import EVERYTHING, RESIDUAL, PerLayer
from actstore_analyze.sae_features import Activity, top_features
from actstore_analyze.sae_groups import Group, groups_of, points_of, roles_of, vectors
from actstore_analyze.sae_source import numbered, source
from actstore_analyze.selection import Say

__all__ = ["Described"]

COUNT = 3  # features of a sample

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("role", "prompt_order", "condition"), pl.String),
    "layer": pl.Int32,
    "sample_id": pl.String,
    "features": pl.List(pl.Int64),
    "activations": pl.List(pl.Float32),
    "descriptions": pl.List(pl.String),
}


@dataclass(frozen=True, kw_only=True)
class Described(PerLayer):
    """A call of `actstore describe`: the strongest described features of the first samples of each group."""

    saes: str
    sae_id: str | None
    hook: str
    fingerprints: tuple[str, ...]
    descriptions: str
    description_fingerprints: tuple[str, ...]
    roles: tuple[str, ...]
    examples: int = 1000
    most_images: float = 0.05
    most_language: float = 0.005

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
        **asked: Any,
    ) -> Self:
        """The call with everything found and checked; without layers all that have vectors, SAE and descriptions."""
        found = source(saes, sae_id, hook)
        files = _files(descriptions, found.hook)
        points = tuple(layer for layer in points_of(store, found, layers) if layer in files)
        if (layers is not None and set(points) < set(layers)) or not points:
            raise ActstoreError(
                f"{descriptions} describes layer {span(sorted(files))} (numbers read with --hook {found.hook}), "
                f"not {span(layers or found.points)}"
            )
        return cls(
            saes=saes,
            sae_id=sae_id,
            hook=found.hook,
            fingerprints=tuple(found.fingerprints),
            descriptions=descriptions,
            description_fingerprints=tuple(neuronpedia.load(files[layer]).fingerprint for layer in points),
            roles=roles_of(store, roles, asked.get("sql", EVERYTHING)),
            layers=points,
            **asked,
        )

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
            f"largest activation on any of its tokens. Rows: {self.sql}. Vectors: {RESIDUAL}."
        )

    def command(self, store: Path) -> str:
        """The command line of the call, without what it found by itself."""
        return super(Described, replace(self, fingerprints=(), description_fingerprints=())).command(store)

    def units(self, store: Store, *, say: Say) -> list[int]:  # noqa: ARG002  (there is nothing to say)
        """The layers; first what can be wrong with the rows."""
        groups_of(store, self.sql, self.roles)
        return list(self.layers)

    def rows(self, store: Store, unit: int) -> pl.DataFrame:
        """SCHEMA: a row for each group and sample, at one layer."""
        sae = source(self.saes, self.sae_id, self.hook).load(unit, store.header.d_model)
        known = neuronpedia.load(_files(self.descriptions, self.hook)[unit])
        rows: list[tuple[object, ...]] = []
        for group in groups_of(store, self.sql, self.roles):
            found = Activity(group.samples, sae.n_features, self.examples)
            for own, x in vectors(store, group, unit, n_features=sae.n_features):
                found.add(own["example"].to_numpy().astype(np.int64), np.asarray(sae.encode(x)))
            allowed = self._allowed(known, sae.n_features) & (found.frequency <= self.most_images)
            rows += _rows(store, group, unit, found, allowed, known)
        return pl.DataFrame(rows, schema=SCHEMA, orient="row")

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


def _rows(
    store: Store, group: Group, layer: int, found: Activity, allowed: NDArray[np.bool_], known: Descriptions
) -> list[tuple[object, ...]]:
    samples = store.sql(
        f"select distinct sample_id, example from ({group.query}) where example < {len(found.largest)} order by example"
    )["sample_id"]
    where = (group.role, group.prompt_order, group.condition, layer)
    tops = top_features(found.largest, allowed, count=COUNT)
    return [
        (*where, sample, top, [float(row[one]) for one in top], [known.of[one].text for one in top])
        for sample, top, row in zip(samples, tops, found.largest, strict=True)
    ]


def _files(described: str, hook: str) -> dict[int, Any]:
    """Descriptions by residual point: their numbers are those of the autoencoders."""
    return {number + (hook == "post"): path for number, path in numbered(described, "file of descriptions").items()}
