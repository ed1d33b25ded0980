"""Calls of `actstore features`: of each feature how often it is active, and the samples in which it is strongest."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze import devices
from actstore_analyze.sae.coded import Coded
from actstore_analyze.sae.groups import Group, groups_of, roles_of, say_models, vectors
from actstore_analyze.sae.tops import Tops
from actstore_analyze.study import held
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import EVERYTHING, RESIDUAL, OnDevice

__all__ = ["SCHEMA", "Strongest"]

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("role", "prompt_order", "condition"), pl.String),
    "layer": pl.Int32,
    "feature": pl.Int64,
    "active": pl.Float64,
    "in_samples": pl.Float64,
    "mean": pl.Float64,
    "largest": pl.Float64,
    "label": pl.String,
    "label_share": pl.Float64,
    "top_samples": pl.List(pl.String),
    "top_activations": pl.List(pl.Float32),
    **dict.fromkeys(("n", "samples"), pl.Int64),
}


@dataclass(frozen=True, kw_only=True)
class Strongest(OnDevice, Coded):
    """The features that are active at all, by layer and group of rows, with the `top` samples of each."""

    label: str | None
    top: int = 10

    measure: ClassVar[str] = "features"

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        roles: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        label: str | None = None,
        **asked: Any,
    ) -> Self:
        """As of any such call; without roles the first that has rows, without a label `label` where the store has
        such a column.
        """
        columns = store.sql("from samples limit 0").columns
        if label is not None and label not in columns:
            raise ActstoreError(f"{store} has no column '{label}' to name what top samples have in common")
        chosen = roles_of(store, roles, asked.get("sql", EVERYTHING))[: None if roles else 1]
        known = label or ("label" if "label" in columns else None)
        return super().of(store, roles=chosen, layers=layers, label=known, **asked)

    @property
    def title(self) -> str:
        """What was gathered, as a heading."""
        return ", ".join(["Features", *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the table shows."""
        return f"How often each feature is active, and the samples in which it is strongest ({self.chosen})."

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            f"Features of autoencoders {self.saes}{f' {self.sae_id}' if self.sae_id else ''}. active: share of vectors "
            "on which a feature is; in_samples: share of samples that have such a vector; mean: over the vectors on "
            f"which it is active. Top: the {self.top} samples with the largest activation on any of their vectors, of "
            f"equal ones the earlier; label_share: the share of them with their commonest {self.label or 'label'}. "
            f"Rows: {self.sql}. Vectors: {RESIDUAL}.{self.computed}"
        )

    def command(self, store: Path | str) -> str:
        """The command line of the call, without what it found by itself."""
        return super(Strongest, replace(self, fingerprints=())).command(store)

    def units(self, store: Store, *, say: Say) -> list[int]:
        """The layers."""
        say_models(store, self.source, say)
        return list(self.layers)

    def rows(self, store: Store, unit: int) -> pl.DataFrame:
        """SCHEMA: a row for each group and each feature that is active in it."""
        device = devices.opened(self.device)
        sae = self.source.load(unit, store.header.d_model, device)
        found: list[tuple[object, ...]] = []
        for group in groups_of(store, self.sql, self.roles):
            if held.holds(store, group.query, unit):
                tops = Tops(sae.n_features, self.top)
                for own, x in vectors(store, group.query, unit, n_features=sae.n_features):
                    tops.add(own["example"].to_numpy().astype(np.int64), np.asarray(sae.encode(x)))
                found += self._of_group(store, group, unit, tops)
        return pl.DataFrame(found, schema=SCHEMA, orient="row")

    def _of_group(self, store: Store, group: Group, layer: int, tops: Tops) -> Iterator[tuple[object, ...]]:
        names = store.sql(f"select distinct sample_id, example from ({group.query}) order by example")["sample_id"]
        labels = self.labels(store)
        for feature in np.flatnonzero(tops.active):
            strongest = tops.strongest(int(feature))
            own = [names[at] for at, _ in strongest]
            told = Counter(labels[name] for name in own if labels.get(name) is not None)
            label, count = told.most_common(1)[0] if told else (None, None)
            yield (
                *(group.role, group.prompt_order, group.condition, layer, int(feature)),
                *(tops.active[feature] / tops.n, tops.samples[feature] / group.samples),
                *(tops.sums[feature] / tops.active[feature], strongest[0][1]),
                *(label, None if count is None else count / len(own)),
                *(own, [value for _, value in strongest], tops.n, group.samples),
            )

    def labels(self, store: Store) -> dict[str, str]:
        """Of each sample what the column says; empty without one."""
        if self.label is None:
            return {}
        return dict(store.sql(f'select distinct sample_id, cast("{self.label}" as varchar) from samples').iter_rows())
