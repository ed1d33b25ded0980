"""Calls of `actstore probe`: held-out accuracy of a linear probe of each role at each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import polars as pl

from actstore.errors import ActstoreError, nearest
from actstore.store import Store
from actstore_analyze.probe.measure import FOLDED, Asked, asked_folded, asked_held_out
from actstore_analyze.study.intervals import by_sample
from actstore_analyze.study.selection import Group, Say, choose, groups, known_roles
from actstore_analyze.study.study import EVERYTHING, Prepared, WithInterval
from actstore_analyze.study.units import (
    PLACE,
    Classes,
    Unit,
    Vectors,
    described,
    said_where,
    sampled,
    vectors,
)

__all__ = ["Probe"]

USUAL_SPLIT = "split"
SIDES = ("train", "test")
OVER = "95 %, over samples: Wilson's, and where a sample has several positions the bootstrap's of samples' shares"
OF_SPLIT = f"{OVER}; of this probe on other samples, not of one fitted on others"
OF_FOLDS = f"{OVER}, with a third more variance, since folds share training samples"


@dataclass(frozen=True, kw_only=True)
class Probe(WithInterval, Prepared):
    """Accuracy by role and layer: on the rows whose split is test, or over folds."""

    roles: tuple[str, ...]
    label: str = "label"
    split: str | None = None
    folds: int = 5
    c: float = 1.0
    positions: int | None = None
    seed: int = 0
    interval: str = "held out"

    measure: ClassVar[str] = "probe"
    always: ClassVar[tuple[str, ...]] = ("label",)
    older: ClassVar[str] = "positions"
    methods_before: ClassVar[Mapping[str, str]] = {
        "positions": (
            "Interval: 95 % Wilson; of several positions one standard error over them, as if these were independent."
        ),
        "samples": f"Interval: {OVER}.",
    }

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        roles: Sequence[str] | None = None,
        split: str | None = None,
        folds: int | None = None,
        **asked: Any,
    ) -> Self:
        """The call with its roles, layers and split checked; without split and folds: the usual column, if there."""
        known = store.sql("from rows limit 0").columns
        if split is not None and folds is not None:
            raise ActstoreError("take --split or --folds, not both")
        if split is not None and split not in known:
            raise ActstoreError(f"no column '{split}' to tell train from test{nearest(split, known)}")
        if split is None and folds is None and _tells(store, known, asked.get("sql", EVERYTHING)):
            split = USUAL_SPLIT
        return super().of(store, roles=known_roles(store, roles), split=split, folds=folds or cls.folds, **asked)

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = [f"Linear probe of “{self.label}”", self.how, *([self.preparation] if self.preparation else [])]
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def how(self) -> str:
        """How vectors are held out, in words."""
        return f"{self.folds} folds" if self.split is None else f"held out by {self.split}"

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            f"Held-out accuracy of a linear probe of each role at each layer ({self.chosen}); dotted: always saying "
            "the commonest label. It says that the label can be read there, not that the model does."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        drawn = f"{self.folds} stratified folds drawn with seed {self.seed}, each held out once"
        of = f"Interval: {OF_FOLDS if self.split is None else OF_SPLIT}."
        by = drawn if self.split is None else f"fitted where {self.split} is train, asked where it is test"
        return (
            f"Linear probe of “{self.label}”: logistic regression (scikit-learn) on standardised dimensions, "
            f"C = {self.c:g}; {by}. {self.on_interval(of)}A role with several positions in a sample has a probe for "
            f"each position, and their mean is shown. Rows: {self.sql}. {self.source}"
        )

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """Roles and conditions, each at every layer."""
        rows = choose(store, self.sql, self.roles, self.label, say=say)
        if rows["label"].dtype.is_float() or rows["label"].dtype.is_decimal():
            raise ActstoreError(f"'{self.label}' is a number, and a probe tells classes apart; make some of it in SQL")
        rows = rows.with_columns(pl.col("label").rank("dense").cast(pl.Int64), named=pl.col("label").cast(pl.String))
        if self.split is not None:
            sides = store.sql(f'select row_id, cast("{self.split}" as varchar) as side from rows')
            rows = rows.join(sides, on="row_id", how="left", maintain_order="left")
            kept = rows.filter(pl.col("side").is_in(SIDES))
            if kept.height < rows.height:
                gone = rows.height - kept.height
                say(f"left out: {gone} of {rows.height} rows, whose {self.split} is neither of {', '.join(SIDES)}")
            rows = kept
        found = [self._large(group, say) for group in groups(rows, self.roles, say=say)]
        for group in found:
            self._check(group)
        return [Unit(sampled(group, self.positions, self.seed), layer) for group in found for layer in self.layers]

    def _large(self, group: Group, say: Say) -> Group:
        """The group without labels that have fewer vectors than folds, which is said, if two are left."""
        if self.split is not None:
            return group
        counts = group.positions[0].group_by("named").len().sort("len", "named")  # every position has all samples
        small = counts.filter(pl.col("len") < self.folds)
        if not small.height or counts.height - small.height < 2:
            return group
        shown = ", ".join(f"{name} ({n})" for name, n in small.head(5).iter_rows())
        shown += f" and {small.height - 5} more" if small.height > 5 else ""
        where = f"role '{group.role}': left out, with fewer vectors than {self.folds} folds"
        say(f"{where}: {shown}; --folds takes fewer")
        kept = [one.filter(~pl.col("named").is_in(small["named"].implode())) for one in group.positions]
        return Group(group.role, group.condition, kept)

    def _check(self, group: Group) -> None:
        """Raise ActstoreError, by name, for a label with fewer vectors than folds or one alone to learn."""
        rows = group.positions[0]  # every position has all samples
        if self.split is not None:
            learned = rows.filter(pl.col("side") == SIDES[0])["named"].unique()
            if rows.height < 2 * rows["named"].n_unique():
                raise ActstoreError(
                    f"'{self.label}' has {rows['named'].n_unique():,} values among {rows.height:,} vectors of role "
                    f"'{group.role}': a probe needs several vectors of each class; take another --label"
                )
            if len(learned) == 1:
                raise ActstoreError(
                    f"role '{group.role}': all training points have the label '{learned[0]}'; a probe needs two"
                )
            return
        counts = rows.group_by("named").len().sort("len", "named")
        label, count = counts.row(0)
        if count < self.folds:
            raise ActstoreError(
                f"label '{label}' has {count} vectors of role '{group.role}', too few for {self.folds} folds; "
                "take fewer (--folds), or leave it out (SQL)"
            )

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """role, condition, layer, depth, accuracy, low, high, chance, positions, held_out, n, classes: one row.

        low, high: 95 % interval. Held out by a column, it is of this probe, on other samples; over folds of what probes
        of other samples, as many, would give. NULL where none is asked for.
        """
        shares = self.shares(store, unit)
        times = FOLDED if self.split is None else 1.0
        low, high = by_sample(shares["right"].to_numpy(), times) if self.has_interval else (None, None)
        return described(store, unit, None, len(unit.group.positions)).select(
            *PLACE,
            accuracy=pl.lit(shares["right"].mean()),
            low=pl.lit(low, pl.Float64),
            high=pl.lit(high, pl.Float64),
            chance=pl.lit(shares["guessed"].mean()),
            positions="positions",
            held_out=pl.lit(shares.height),
            n="n",
            classes=pl.lit(unit.group.positions[0]["label"].n_unique()),
        )

    def shares(self, store: Store, unit: Unit) -> pl.DataFrame:
        """sample_id, right, guessed: of each sample held out the share of positions that a probe, and a guess, name
        right.
        """
        asked = pl.concat(
            self._asked(self.prepared(x), y, rows, unit)
            for (x, y), rows in zip(vectors(store, unit), unit.group.positions, strict=True)
        )
        return asked.group_by("sample_id", maintain_order=True).agg(pl.col("right", "guessed").mean())

    def _asked(self, x: Vectors, y: Classes, rows: pl.DataFrame, unit: Unit) -> pl.DataFrame:
        """sample_id, right, guessed of the vectors held out at one position."""
        train = None if self.split is None else (rows["side"] == "train").to_numpy()

        def asked() -> Asked:
            if train is None:
                return asked_folded(x, y, folds=self.folds, seed=self.seed, c=self.c)
            return asked_held_out(x, y, train, c=self.c)

        right, guessed = said_where(unit, asked)
        samples = rows["sample_id"] if train is None else rows["sample_id"].filter(~pl.Series(train))
        return pl.DataFrame({"sample_id": samples, "right": right, "guessed": guessed})


def _tells(store: Store, known: list[str], sql: str) -> bool:
    """Whether the usual column tells train from test among the rows of a query."""
    if USUAL_SPLIT not in known:
        return False
    query = sql.strip().rstrip(";")
    values = store.sql(
        f"select distinct cast({USUAL_SPLIT} as varchar) as side from rows "
        f"where row_id in (select row_id from (\n{query}\n))"
    )
    return set(SIDES) <= set(values["side"])
