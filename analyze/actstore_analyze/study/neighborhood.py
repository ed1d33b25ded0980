"""What measures of nearest neighbours share: rows that must not be neighbours, and vectors that are there twice."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.store import Store
from actstore_analyze import devices
from actstore_analyze.neighbors import Neighbors
from actstore_analyze.study import stored
from actstore_analyze.study.kept import Kept
from actstore_analyze.study.points import InMemory, Points
from actstore_analyze.study.study import OnDevice, Prepared, WithInterval
from actstore_analyze.study.units import Classes, Unit, labels, vectors

__all__ = ["BySample", "Neighborhood", "OfNeighbors", "sized"]

Numbers = NDArray[np.int64]


class Neighborhood(NamedTuple):
    """The vectors (n, d) of one position that are measured, with labels and groups (n,), each None without such.

    kept (n,): which of the position's rows they are; copies: vectors equal to an earlier one, measured or not.
    queries (m,): those whose neighbours are looked for among all n; None where they all are.
    """

    x: Points
    labels: Classes
    groups: Numbers | None
    kept: Numbers
    copies: int
    queries: Numbers | None = None

    @property
    def asked(self) -> Numbers:
        """Which of the position's rows have neighbours."""
        return self.kept if self.queries is None else self.kept[self.queries]

    def nearest(self, k: int, metric: str) -> Neighbors:
        """The k nearest neighbours of those that are asked for."""
        return self.x.nearest(k, metric=metric, groups=self.groups, queries=self.queries)

    @property
    def size(self) -> tuple[int, int]:
        """Vectors measured, and copies."""
        return len(self.x), self.copies

    def fewer(self, k: int) -> str | None:
        """Why these vectors have no k neighbours: they are the same, or too few; None for those that have."""
        if self.x.constant:
            return "all vectors are the same"
        return f"{len(self.x)} different vectors have no {k} neighbours each" if len(self.x) <= k else None


@dataclass(frozen=True, kw_only=True)
class OfNeighbors(OnDevice, WithInterval, Prepared):
    """A measure of nearest neighbours.

    unique: only the first of equal vectors is measured; group: a column whose equal values keep rows from being
    neighbours, such as the picture of several questions; queries: so many samples are drawn by the seed, and their
    neighbours among all looked for.
    """

    unique: bool = False
    group: str | None = None
    queries: int | None = None
    seed: int = 0

    def neighborhoods(self, store: Store, unit: Unit) -> Iterator[Neighborhood]:
        """The vectors of each position of a unit, as they are measured."""
        for x, rows in zip(self.points(store, unit), unit.group.positions, strict=True):
            yield self.neighborhood([x], rows)

    def points(self, store: Store, unit: Unit) -> Iterator[Points]:
        """The vectors of each position: in memory, or by blocks where they are many."""
        device = devices.opened(self.device)
        if not self.by_blocks(store, unit):
            return (InMemory(x, device) for x, _ in vectors(store, unit))
        return (
            stored.Stored(store, self, stored.Placed(rows["row_id"].to_numpy(), unit.layer), device)
            for rows in unit.group.positions
        )

    def by_blocks(self, store: Store, unit: Any) -> bool:
        """Whether the vectors of a position are so many."""
        return stored.are_many(unit.group.n, store.header.d_model)

    def measured(self, store: Store, units: Sequence[Any]) -> list[pl.DataFrame | str]:
        """See PerLayer; of units by blocks one after the other, each by all who do the work."""
        large = {index: unit for index, unit in enumerate(units) if self.by_blocks(store, unit)}
        if not large:
            return super().measured(store, units)
        others = [index for index in range(len(units)) if index not in large]
        found = dict(zip(others, super().measured(store, [units[index] for index in others]), strict=True))
        with Kept(store, self._rows, [*large.values()]) as kept:
            for number, (index, unit) in enumerate(large.items()):
                if number not in kept:
                    kept.add(number, self._rows(store, unit))
                found[index] = kept.value(number)
        return [found[index] for index in range(len(units))]

    def neighborhood(self, given: Sequence[Points], rows: pl.DataFrame) -> Neighborhood:
        """Of the same rows in one representation or several, of which the first is kept: a copy in any is one."""
        every = given[0].prepared(self)
        kept = np.flatnonzero(every.firsts() == np.arange(len(rows)))
        for x in given[1:]:
            own = x[kept].prepared(self).firsts()
            kept = kept[own == np.arange(len(kept))]
        copies = len(rows) - len(kept)
        kept = kept if self.unique else np.arange(len(rows))
        groups = None if self.group is None else rows["group"].to_numpy()[kept]
        x = every if len(kept) == len(rows) else given[0][kept].prepared(self)
        return Neighborhood(x, labels(rows)[kept], groups, kept, copies, self._drawn(kept, len(rows)))

    def _drawn(self, kept: Numbers, n: int) -> Numbers | None:
        """Which of the rows kept of n are queries: at every position of a role the same, as far as they are kept."""
        if self.queries is None or self.queries >= len(kept):
            return None
        order = np.random.default_rng(self.seed).permutation(n)
        return np.searchsorted(kept, np.sort(order[np.isin(order, kept)][: self.queries]))

    def finish(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The table, and how many samples were drawn, where they were."""
        return rows if self.queries is None else rows.with_columns(queries=pl.min_horizontal("n", self.queries))

    @property
    def computed(self) -> str:
        """Where neighbours were proposed, as a sentence with a space before it; nothing of a CPU."""
        if self.device == devices.CPU:
            return ""
        return f" A GPU, {self.device}, proposed neighbours in float32; float64 on the CPU decided, as without it."

    @property
    def has_interval(self) -> bool:
        """Whether this version's are asked for, and each sample is one vector, drawn or left out alone."""
        return super().has_interval and not self.unique and self.group is None

    @property
    def apart(self) -> str | None:
        """Which neighbours are kept out, in words; None for none."""
        said = ["each once where vectors are equal"] if self.unique else []
        said += [f"rows of one “{self.group}” never neighbours"] if self.group else []
        return ", ".join(said) or None

    @property
    def preparation(self) -> str | None:
        """In words, None for vectors as they are."""
        drawn = f"for {self.queries:,} samples, drawn with seed {self.seed}, among all" if self.queries else None
        return ", ".join(filter(None, [super().preparation, self.apart, drawn])) or None

    def remarks(self, table: pl.DataFrame) -> Iterator[str]:
        """Roles in which vectors are copies of others; where all are one vector, the measure says it by NaN."""
        yield from super().remarks(table)
        if "copies" not in table.columns:  # saved by an earlier version
            return
        others = pl.col("n") if self.unique else pl.col("n") - pl.col("copies")
        found = table.filter((pl.col("copies") > 0) & (others > 1)).sort("copies", descending=True)
        worst = found.group_by("role", maintain_order=True)
        for (role,), rows in worst:
            copies, n, layer = rows.select("copies", "n", "layer").row(0)
            if self.unique:
                yield f"role '{role}', layer {layer}: {copies} vectors equal others and were left out; {n} are measured"
            elif self.group is None:
                yield (
                    f"role '{role}', layer {layer}: {copies} of {n} vectors are identical with others, their nearest "
                    "neighbours at distance 0; --unique keeps one of each, --group COLUMN keeps rows of one group apart"
                )


class BySample:
    """Values of samples, each met at several positions: what their mean over samples may be off by.

    Positions of one sample are not independent, so that they are averaged first. drawn: whether samples are queries.
    """

    def __init__(self, n: int, *, drawn: bool = False) -> None:
        self._sums, self._met, self._least = np.zeros(n), np.zeros(n), 1 if drawn else 2

    def add(self, kept: Numbers, values: NDArray[np.floating]) -> None:
        """The values (m,) of the samples `kept` (m,) at one position."""
        self._sums[kept] += values
        self._met[kept] += 1

    def error(self, classes: Classes | None = None) -> float | None:
        """The standard error over samples, or of the mean over classes; None of samples met once but where drawn."""
        if self._met.max(initial=0) < self._least or (self._met > 0).sum() < 2:
            return None
        met = self._met > 0
        values = self._sums[met] / self._met[met]
        weights = np.full(len(values), 1 / len(values))
        if classes is not None:
            _, which, counts = np.unique(classes[met], return_inverse=True, return_counts=True)
            weights = 1 / (len(counts) * counts[which])
        apart = weights * (values - weights @ values)
        return float(np.sqrt(len(values) / (len(values) - 1) * (apart @ apart)))


def sized(sizes: Iterable[tuple[int, int]]) -> list[pl.Expr]:
    """Columns n, the fewest vectors measured at a position, and copies, the most that equal an earlier one."""
    n, copies = zip(*sizes, strict=True)
    return [pl.lit(min(n)).alias("n"), pl.lit(max(copies)).alias("copies")]
