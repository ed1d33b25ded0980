"""Calls of `actstore score --minus-store`: the differences of scores between two stores, over the samples of both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore.store import open as open_store
from actstore_analyze.score.board import NAMES
from actstore_analyze.score.study import ALL, EVERY_SAMPLE, Scored
from actstore_analyze.score.tasks import TASKS
from actstore_analyze.study.another import another
from actstore_analyze.study.differences import DIFFERENCE, changes
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import Study

__all__ = ["ScoreMinus"]

KEY = ["condition", "sample_id"]
SCHEMA = {
    **dict.fromkeys(("task", "metric", "condition", "split"), pl.String),
    **dict.fromkeys(("value", "minus", *DIFFERENCE), pl.Float64),
    "minus_store": pl.String,
    "n": pl.Int64,
    **dict.fromkeys(("said", "truth"), pl.String),
}


@dataclass(frozen=True, kw_only=True)
class ScoreMinus(Study):
    """Scores that are means over samples less those of another store, by condition and split.

    minus_state: the contents of the other store, which the result depends on. There are no layers.
    """

    task: str
    said: str
    truth: str
    minus_store: str
    minus_state: str
    sql: str = EVERY_SAMPLE
    layers: tuple[int, ...] = ()

    measure: ClassVar[str] = "score_minus"
    verb: ClassVar[str] = "score"

    @classmethod
    def of(cls, store: Store, **asked: Any) -> Self:
        """The call, its columns found here and checked in both stores; asked: of `Scored.of`, and minus_store."""
        there = asked.pop("minus_store")
        if TASKS[asked["task"]].each is None:
            means = ", ".join(name for name, task in TASKS.items() if task.each is not None)
            raise ActstoreError(f"--minus-store is of means over samples, which --task {asked['task']} lacks: {means}")
        own, other = Scored.of(store, **asked), open_store(there)
        Scored.of(other, task=own.task, sql=own.sql, said=own.said, truth=own.truth)
        return cls(
            task=own.task,
            sql=own.sql,
            said=own.said,
            truth=own.truth,
            minus_store=str(there),
            minus_state=other.state,
        )

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = [f"Scores: {NAMES[self.task]}", *([self.sql] if self.sql != EVERY_SAMPLE else [])]
        return f"{', '.join(asked)}, less those of {Path(self.minus_store).name}"

    @property
    def slug(self) -> str:
        """The name of its files."""
        return f"scores-{self.task}-minus"

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            f"The difference from {Path(self.minus_store).name} of scores of what the models said, over the samples of "
            "both, with 95 % intervals. 0: the same."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            f"Scores ({NAMES[self.task]}): {self.said} against {self.truth}. Differences are from the same of "
            f"{self.minus_store}, over the samples, matched by condition and sample_id, that both stores have, and "
            "whose truth is the same in both. Interval of a difference: 95 %, over samples, paired: of right and wrong "
            "Bonett and Price's (2012), of other means the bootstrap's, with CIDEr's word weights as they are. "
            f"Rows: {self.sql}."
        )

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """SCHEMA: for each condition that both have all splits together, then each.

        difference: value less minus, which is that of the other store; splits are those of the samples here.
        """
        other = another(self.minus_store, self.minus_state)
        own, theirs = self._matched(self._samples(store, say), self._samples(other, say), say)
        rows = []
        for (condition,), here in own.group_by("condition", maintain_order=True):
            there = theirs.filter(pl.col("condition") == condition)
            for split in [ALL, *here["split"].drop_nulls().unique(maintain_order=True)]:
                chosen = pl.lit(value=True) if split == ALL else pl.col("split").eq_missing(pl.lit(split))
                sides = here.filter(chosen), there.filter(here.select(chosen).to_series())
                end = Path(self.minus_store).name, sides[0].height, self.said, self.truth
                rows += [
                    (self.task, metric, condition, split, *values, *end)
                    for metric, *values in self._differences(*sides)
                ]
        return pl.DataFrame(rows, schema=SCHEMA, orient="row")

    @property
    def _scored(self) -> Scored:
        return Scored(self.task, self.sql, self.said, self.truth)

    def _samples(self, store: Store, say: Say) -> pl.DataFrame:
        """What was said in a store, of samples that can be told apart."""
        found = self._scored.samples(store, say=lambda line: say(f"{store}: {line}"))
        if found["sample_id"].null_count() or found.select(KEY).is_duplicated().any():
            raise ActstoreError(f"{store}: the rows give a sample_id twice, or none, by which samples are matched")
        return found

    def _matched(self, own: pl.DataFrame, other: pl.DataFrame, say: Say) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Of the same samples in the same order, what was said in both stores; their truth is one."""
        here = own.join(other, on=KEY, how="semi", maintain_order="left")
        there = here.select(KEY).join(other, on=KEY, how="left", maintain_order="left")
        if not here.height:
            first = [(one["condition"][0], one["sample_id"][0]) for one in (own, other)]
            raise ActstoreError(
                f"no sample in common with {self.minus_store}, under one condition; the first is '{first[0][1]}' "
                f"('{first[0][0]}') here and '{first[1][1]}' ('{first[1][0]}') there"
            )
        if left := own.height - here.height:
            say(f"{left} of {own.height} samples are not in both; left out")
        differs = here.with_columns(there=there["truth"]).filter(pl.col("truth") != pl.col("there"))
        if differs.height:
            sample, truth, its = differs.select("sample_id", "truth", "there").row(0)
            raise ActstoreError(
                f"{differs.height} of {here.height} samples have another '{self.truth}' in {self.minus_store}: "
                f"'{sample}' has {truth} here and {its} there"
            )
        return here, there

    def _differences(self, own: pl.DataFrame, other: pl.DataFrame) -> list[tuple[Any, ...]]:
        """metric, value, minus and DIFFERENCE, of one condition's samples in both stores."""
        told = [self._scored.told(one) for one in (own, other)]
        means = [dict(one.group_by("metric").agg(pl.col("value").mean()).iter_rows()) for one in told]
        found = changes(*told).drop("condition")
        return [(metric, means[0][metric], means[1][metric], *ends) for metric, *ends in found.iter_rows()]
