"""Calls of `actstore cluster`: density peaks at each layer, and how far they agree with a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze import devices
from actstore_analyze.cluster import measure as clustering
from actstore_analyze.cluster.measure import MAXK, Clusters, others
from actstore_analyze.gap.sides import IMAGE, TEXT, sides
from actstore_analyze.neighbors import Neighbors
from actstore_analyze.published import curves
from actstore_analyze.study.intervals import FEW_HALVES, reach
from actstore_analyze.study.neighborhood import Neighborhood, OfNeighbors
from actstore_analyze.study.selection import Group, Say, choose, groups, known_roles
from actstore_analyze.study.study import EVERYTHING, METRICS
from actstore_analyze.study.units import PLACE, Unit, defined, described, enough

__all__ = ["TOGETHER", "Cluster"]
TOGETHER = "text + image"  # the role of the union of both modalities, as The Narrow Gate clusters it
DRAWN = (
    "Of the vectors that are drawn the densities are among all; peaks and borders are theirs alone, and the size of a "
    "small cluster is that of their share."
)


@dataclass(frozen=True, kw_only=True)
class Cluster(OfNeighbors):
    """Clusters of text and image vectors together (no roles), or of each role by itself, by layer."""

    roles: tuple[str, ...] = ()
    label: str = "modality"
    text: str = TEXT
    image: str = IMAGE
    method: str = "adp"
    k: int = 15
    z: float = 1.2
    min_size: int = 50
    metric: str = "normalised"
    halo: bool = False
    interval: str = "subsamples, as many clusters"

    measure: ClassVar[str] = "cluster"
    always: ClassVar[tuple[str, ...]] = ("label",)

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        what = ", ".join(self.roles) or TOGETHER
        asked = [f"Clusters of {what} against “{self.label}”", *(["HDBSCAN"] if self.method == "hdbscan" else [])]
        asked += ["without halo"] if self.halo else []
        asked += [self.preparation] if self.preparation else []
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            f"Homogeneity of the clusters at each layer: 1 where every cluster holds one “{self.label}” only. "
            f"Clusters of fewer than {self.min_size} vectors are left out of one line and counted in the other."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        adp = (
            f"Advanced Density Peaks (d'Errico et al. 2021; as DADApy) with Z = {self.z}, densities of k = {self.k} "
            "neighbours, intrinsic dimension by Gride at rank 16"
            + ("; points less dense than their cluster's highest border (halo) left out" if self.halo else "")
        )
        how = adp if self.method == "adp" else f"HDBSCAN, smallest cluster {self.min_size}, core points of {self.k}"
        chosen = f"roles {', '.join(self.roles)}" if self.roles else f"text: {self.text}; image: {self.image}"
        return (
            f"Clusters: {how}. Distance: {METRICS[self.metric]}. Homogeneity = 1 - H(label | cluster) / H(label). "
            f"{DRAWN + ' ' if self.queries else ''}{self.on_interval(FEW_HALVES)}"
            f"Rows: {self.sql}; {chosen}. {self.source}{self.computed}"
        )

    @property
    def has_interval(self) -> bool:
        """Whether they are asked for, and clusters are those of neighbours, which halves have, too."""
        return super().has_interval and self.method == "adp"

    @classmethod
    def of(cls, store: Store, *, roles: Sequence[str] | None = None, label: str | None = None, **other: Any) -> Self:
        """The call with its roles and layers checked; without roles, modality is the label, else label."""
        chosen = () if roles is None else known_roles(store, roles)
        call = super().of(store, roles=chosen, label=label or ("label" if chosen else "modality"), **other)
        if call.queries is not None and call.method == "hdbscan":
            raise ActstoreError("--queries is of density peaks; with HDBSCAN select fewer rows")
        if call.device != devices.CPU and call.method == "hdbscan":
            raise ActstoreError("--device is of density peaks; HDBSCAN is computed on the CPU alone: leave it out")
        if call.queries is not None and call.queries <= call.rank:
            raise ActstoreError(
                f"{call.queries} queries are no clusters of {call.rank} neighbours; draw more (--queries)"
            )
        return call

    @property
    def rank(self) -> int:
        """The farthest neighbour that densities and the dimension need."""
        return max(self.k, 16)

    def _published(self, model: str) -> pl.DataFrame | None:
        """Of both modalities together."""
        return None if self.roles or self.label != "modality" else curves.homogeneity(model)

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """Both modalities, or the roles, under each condition and at every layer."""
        found = list(self._groups(store, say))
        for group in found:
            enough(group, self.rank)
        return [Unit(group, layer) for group in found for layer in self.layers]

    def _groups(self, store: Store, say: Say) -> list[Group]:
        if self.roles:
            rows = choose(store, self.sql, self.roles, self.label, group=self.group, say=say)
            return list(groups(_coded(rows), self.roles, say=say))
        both = sides(store, self.sql, self.text, self.image)
        query = self.sql.strip().rstrip(";")
        where = f"row_id in (select row_id from rows where (\n{self.text}\n) or (\n{self.image}\n))"
        chosen = f"from (\n{query}\n) where {where}"
        rows = _coded(choose(store, chosen, store.roles, self.label, group=self.group, say=say))
        return [Group(TOGETHER, one.condition, [rows.filter(pl.col("condition") == one.condition)]) for one in both]

    def by_blocks(self, store: Store, unit: Any) -> bool:
        """Of neighbours alone."""
        return self.method == "adp" and super().by_blocks(store, unit)

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """One row for each position of a role: how far its clusters and its labels say the same.

        homogeneity, completeness, v and kept leave clusters of fewer than min_size vectors out; homogeneity_all
        does not. They are NaN where nothing is left; all are where the vectors are the same, or too few are unique.
        low, high, completeness_low, ..., low_all, high_all: 95 % intervals, of halves of the vectors (and of min_size);
        NULL of HDBSCAN and with --unique and --group.
        """
        return pl.concat(self._row(store, unit, k, one) for k, one in enumerate(self.neighborhoods(store, unit)))

    def _row(self, store: Store, unit: Unit, k: int, one: Neighborhood) -> pl.DataFrame:
        place = described(store, unit, None, 1).select(*PLACE, pl.lit(k).alias("k"))
        found, drawn, reason = None, None, one.fewer(self.rank)
        truth = one.labels if one.queries is None else one.labels[one.queries]
        min_size = -(-self.min_size * len(truth) // len(one.x))
        if reason is None and (self.has_interval or one.queries is not None):
            both, reason = defined(unit, lambda: self._neighbors(one))
            if both is not None:
                own, among_all = both
                near = own.first(min(MAXK, own.indices.shape[1]))
                found, reason = defined(unit, lambda: self._peaks(near, among_all=among_all))
            if found is not None and self.has_interval:
                drawn = clustering.agreement_of_halves(
                    own,
                    truth,
                    found.labels,
                    self._peaks,
                    k=self.k,
                    min_size=min_size,
                    among_all=among_all,
                    n=len(one.x),
                )
        elif reason is None:
            found, reason = defined(unit, lambda: self._clusters(one))
        labels = np.full(len(truth), -1) if found is None else found.labels
        large, every = (clustering.homogeneity(truth, labels, min_size=size) for size in (min_size, 1))
        found_of = (
            (large.homogeneity, truth),
            (large.completeness, labels),
            (large.v, truth),
            (every.homogeneity, truth),
        )
        interval = [
            [pl.lit(end, pl.Float64) for end in clustering.bounds(value, None if drawn is None else drawn[:, i], of)]
            for i, (value, of) in enumerate(found_of)
        ]
        return place.with_columns(
            homogeneity=pl.lit(large.homogeneity),
            low=interval[0][0],
            high=interval[0][1],
            completeness=pl.lit(large.completeness),
            completeness_low=interval[1][0],
            completeness_high=interval[1][1],
            v=pl.lit(large.v),
            v_low=interval[2][0],
            v_high=interval[2][1],
            kept=pl.lit(large.kept),
            homogeneity_all=pl.lit(every.homogeneity),
            low_all=interval[3][0],
            high_all=interval[3][1],
            clusters=pl.lit(len(np.unique(labels[labels >= 0]))),
            large=pl.lit(int((np.bincount(labels[labels >= 0], minlength=1) >= min_size).sum())),
            noise=pl.lit(float((labels < 0).mean())),
            dimension=pl.lit(None if found is None else found.dimension, dtype=pl.Float64),
            method=pl.lit(self.method),
            label=pl.lit(self.label),
            min_size=pl.lit(self.min_size),
            n=pl.lit(len(one.x)),
            copies=pl.lit(one.copies),
            reason=pl.lit(reason, pl.String),
        )  # fmt: skip

    def _neighbors(self, one: Neighborhood) -> tuple[Neighbors, Neighbors | None]:
        """Of each vector the neighbours that are enough for its clusters, and for those of halves; of drawn ones among
        themselves, and among all.
        """
        most = max(reach(MAXK) if self.has_interval else MAXK, self.k)
        if one.queries is None:
            return one.nearest(min(most, len(one.x) - 1), self.metric), None
        x, groups = one.x[one.queries], None if one.groups is None else one.groups[one.queries]
        own = x.nearest(max(self.k, min(most, others(len(x), groups))), metric=self.metric, groups=groups)
        dense = reach(self.rank) if self.has_interval else self.rank
        return own, one.nearest(max(self.rank, min(dense, others(len(one.x), one.groups))), self.metric)

    def _peaks(self, neighbors: Neighbors, *, among_all: Neighbors | None) -> Clusters:
        return clustering.density_peaks_from(neighbors, z=self.z, k=self.k, halo=self.halo, among_all=among_all)

    def _clusters(self, one: Neighborhood) -> Clusters:
        if self.method == "adp":
            most = others(len(one.x), one.groups)
            found = one.nearest(min(MAXK, max(self.k, most)), self.metric)
            return self._peaks(found.first(min(MAXK, most)), among_all=None)
        if self.group:
            raise ActstoreError("--group is of density peaks; with HDBSCAN take --unique, or select one row of each")
        if self.halo:
            raise ActstoreError("--halo is of density peaks; HDBSCAN has noise of its own")
        if self.metric == "cosine":
            raise ActstoreError("HDBSCAN takes --metric normalised or euclidean")
        return clustering.hdbscan(one.x.read(), min_cluster_size=self.min_size, min_samples=self.k, metric=self.metric)


def _coded(rows: pl.DataFrame) -> pl.DataFrame:
    """Labels as numbers."""
    return rows.with_columns(pl.col("label").rank("dense").cast(pl.Int64))
