"""Calls of `actstore knockout`: what is left under each knockout of a store, with the repeats of one put together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from actstore.errors import ActstoreError
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.neighbors import firsts
from actstore_analyze.overlap.measure import chance_level, label_overlap
from actstore_analyze.overlap.study import say_highest
from actstore_analyze.published import curves
from actstore_analyze.score.study import ALL, Scored
from actstore_analyze.study import answers, executor, said
from actstore_analyze.study.conditions import NONE, samples_under
from actstore_analyze.study.intervals import wilson
from actstore_analyze.study.knocked import Knocked, knocked
from actstore_analyze.study.selection import Say, choose, groups
from actstore_analyze.study.study import EVERYTHING, METRICS, RESIDUAL, PerLayer, n_layers
from actstore_analyze.study.units import Classes, Unit, Vectors, constant, enough, mean_and_error, said_where, vectors

__all__ = ["FOUND", "WORDS", "Knockout", "averaged", "say_copies", "with_share"]
LAST = "last"
TASKS = {"vqa": "answers", "cider": "captions"}  # scored where the samples have the column
WORDS = {
    "overlap": "label overlap χ at the output",
    "vqa_accuracy": "VQA accuracy",
    "vqa_of_all": "VQA accuracy, min(#/3, 1)",
    "cider": "CIDEr",
    "cider_d": "CIDEr-D",
    "cider_ptb": "CIDEr, PTB tokens",
    "cider_d_ptb": "CIDEr-D, PTB tokens",
    "accuracy": "next token is the label",
    "answer_probability": "probability of the label",
}
FOUND = {
    "condition": pl.String,
    "metric": pl.String,
    **dict.fromkeys(("value", "low", "high", "chance"), pl.Float64),
    "n": pl.Int64,
}
_NAMED = {
    "condition": pl.String,
    "knockout": pl.String,
    "window": pl.Int32,
    "mode": pl.String,
    "place": pl.Int32,
}


@dataclass(frozen=True, kw_only=True)
class Knockout(PerLayer):
    """A call of `actstore knockout`; the overlap is taken at `layers`, one of them."""

    label: str = "label"
    role: str = LAST
    k: int = 30

    measure: ClassVar[str] = "knockout"
    always: ClassVar[tuple[str, ...]] = ("k",)

    @classmethod
    def of(cls, store: Store, *, layers: Sequence[int] | None = None, **asked: Any) -> Self:
        """The call with its layer checked; without any: the output, or the last that is stored."""
        call = super().of(store, layers=store.layers[-1:] if layers is None else layers, **asked)
        if len(call.layers) != 1:
            raise ActstoreError(f"one layer is wanted, not {len(call.layers)}: knockouts are compared at the output")
        return call

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = [f"Attention knockout, k = {self.k}"]
        asked += [f"overlap of {self.role}"] if self.role != LAST else []
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def slug(self) -> str:
        """The name of its files."""
        return f"attention-knockout-k{self.k}"

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            "What is left while the text is kept from attending to a part of the image: in the last blocks, as many as "
            f"the axis says, and below in all blocks, with 95 % intervals where there are some ({self.chosen}). "
            "Dotted: chance."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            "Attention knockout (Serra et al., The Narrow Gate): attention of the queries to the keys is set to zero, "
            "after the softmax without renormalisation (mode post) or before it (mode pre), in the prompt and at every "
            f"generated token. Label overlap with “{self.label}” at k = {self.k} of the vectors of {self.role} at "
            f"layer {self.layers[0]} ({RESIDUAL}), {METRICS['euclidean']}. VQA accuracy and CIDEr as actstore score "
            "takes them; next token and probability of the label, or of the first token of each sample's own answer "
            "where the recipe has such, over all samples that have one. Each repeat of a "
            "random knockout is measured by itself; the value is their mean, the spread their standard deviation. "
            f"Rows: {self.sql}."
        )

    def _published(self, model: str) -> pl.DataFrame | None:
        return curves.windows(model)

    def beside(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """As for every study, and share, what is left of the model as it is."""
        return super().beside({store: with_share(table) for store, table in tables.items()})

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """The role under each condition; none where there are no such vectors or no labels."""
        conditions = [one.condition for one in knocked(store)]
        try:
            if self.role not in store.roles:
                raise ActstoreError(f"no role '{self.role}' in {store.path}")
            rows = choose(store, self.sql, [self.role], self.label, say=say)
            rows = rows.filter(pl.col("condition").is_in(conditions))
            rows = rows.with_columns(pl.col("label").rank("dense").cast(pl.Int64))
            found = list(groups(rows, [self.role], say=say))
        except ActstoreError as error:
            say(f"no label overlap: {error}")
            return []
        if n_layers(store) not in store.layers:
            say(f"label overlap at layer {self.layers[0]}: the output, layer {n_layers(store)}, is not stored")
        for group in found:
            enough(group, self.k)
        say_highest(found, self.k, say=say)
        units = [Unit(group, self.layers[0]) for group in found]
        say_copies(((unit.group.condition, x) for unit in units for x, _ in vectors(store, unit)), self.role, say=say)
        return units

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """The label overlap under one condition, the mean over the role's positions: a row of FOUND."""
        found = [(self._overlap(x, y, unit), chance_level(y)) for x, y in vectors(store, unit)]
        value, chance = (mean_and_error(each)[0] for each in zip(*found, strict=True))
        row = (unit.group.condition, "overlap", value, None, None, chance, unit.group.n)
        return _table([row])

    def _overlap(self, x: Vectors, y: Classes, unit: Unit) -> float:
        return float("nan") if constant(x) else said_where(unit, lambda: label_overlap(x, y, self.k))

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """knockout, window, blocks, mode, metric, value, low, high, spread, repeats, chance, n, by knockout and window.

        window: the last of `blocks`, 0 for the model as it is, NULL for others than the last; low and high: 95 %
        interval, of repeats the mean of theirs; spread: standard deviation over repeats (n - 1), NULL without any.
        """
        conditions, right = knocked(store), answers.right(store, self.label) or self.label
        parts = [_table([]), *executor.mapped(store, self.rows, self.units(store, say=say), jobs=self.jobs)]
        asked = samples_under([one.condition for one in conditions], self.sql)
        parts += [
            *_scores(store, asked, say),
            _accuracy(store, asked, right),
            _probability(store, asked, right),
        ]
        found = pl.concat(parts)
        if not found.height:
            raise ActstoreError(f"nothing to measure in {store.path}: neither labels, nor answers, nor captions")
        return averaged(found, conditions, n_layers(store))


def with_share(table: pl.DataFrame) -> pl.DataFrame:
    """The table with share: the value over that of the model as it is; NULL where that is none, 0 or undefined."""
    plain = table.filter(pl.col("knockout") == NONE, pl.col("value").is_not_nan()).select("metric", before="value")
    joined = table.join(plain, on="metric", how="left", maintain_order="left")
    share = pl.when(pl.col("before") > 0).then(pl.col("value") / pl.col("before"))
    return joined.with_columns(share=share.fill_nan(None)).drop("before")


def say_copies(measured: Iterable[tuple[str, Vectors]], role: str, *, say: Say) -> None:
    """Say, once, of the condition with the most of them, that vectors (n, d) are copies of others."""
    worst, of, under = 0, 0, ""
    for condition, x in measured:
        copies = 0 if constant(x) else len(x) - len(np.unique(firsts(x)))
        worst, of, under = max((worst, of, under), (copies, len(x), condition), key=lambda one: one[0])
    if worst:
        say(
            f"label overlap: {worst} of {of} vectors of {role} under '{under}' are identical with others, their "
            "nearest neighbours at distance 0; actstore overlap measures without them (--unique, --group)"
        )


def _table(rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=FOUND, orient="row")


def _scores(store: Store, asked: str, say: Say) -> list[pl.DataFrame]:
    """What the model said, scored as far as the samples have references."""
    columns = store.sql(f"from ({asked}) limit 0").columns
    found = []
    for task, truth in TASKS.items():
        if truth not in columns:
            continue
        try:
            scores = Scored.of(store, task=task, sql=asked).table(store, say=say)
        except ActstoreError as error:
            say(f"no scores of task {task}: {error}")
            continue
        whole = scores.filter(pl.col("split") == ALL)
        found.append(
            whole.select(
                "condition", "metric", pl.col("score").alias("value"), "low", "high",
                pl.lit(None, pl.Float64).alias("chance"), "n",
            )
        )  # fmt: skip
    return found


def _accuracy(store: Store, asked: str, label: str) -> pl.DataFrame:
    """Share of samples whose next token is the label; chance is the commonest."""
    by_split = said.accuracy(store, label, sql=asked)
    if by_split is None:
        return _table([])
    counted = by_split.group_by("condition", maintain_order=True).agg(pl.col("right", "n").sum())
    share = store.sql(
        f'select max(n) / sum(n) from (select count(*) n from ({asked}) where "{label}" is not null group by "{label}")'
    ).item()
    return _table(
        [(condition, "accuracy", right / n, *wilson(right, n), share, n) for condition, right, n in counted.iter_rows()]
    )


def _probability(store: Store, asked: str, label: str) -> pl.DataFrame:
    """Mean probability of the label's word as next token, with its normal interval."""
    at = answers.places(store)
    if not at or label not in store.sql(f"from ({asked}) limit 0").columns:
        return _table([])
    place = " ".join(f"when {literal(word)} then {i + 1}" for word, i in at.items())
    means = store.sql(
        f'with p as (select condition, answer_probabilities[case cast("{label}" as varchar) {place} end] as p '
        f"from ({asked})) select condition, avg(p) as mean, stddev_samp(p) / sqrt(count(p)) as se, count(p) as n "
        "from p where p is not null group by all order by all"
    )
    return _table(
        [
            (condition, "answer_probability", mean, *_interval(mean, se), None, n)
            for condition, mean, se, n in means.iter_rows()
        ]
    )


def _interval(mean: float, se: float | None) -> tuple[float | None, float | None]:
    return (None, None) if se is None else (max(0.0, mean - 1.959964 * se), min(1.0, mean + 1.959964 * se))


def averaged(found: pl.DataFrame, conditions: Sequence[Knocked], blocks: int) -> pl.DataFrame:
    """Repeats put together, in the order of the run card."""
    named = pl.DataFrame([(*one, i) for i, one in enumerate(conditions)], schema=_NAMED, orient="row")
    own = pl.DataFrame({"metric": list(WORDS), "metric place": range(len(WORDS))})
    joined = found.join(named, on="condition").join(own, on="metric")
    together = joined.group_by("knockout", "window", "mode", "metric").agg(
        pl.col("value", "low", "high").mean(),
        spread=pl.col("value").std(),
        repeats=pl.len().cast(pl.Int32),
        chance=pl.col("chance").mean(),
        n=pl.col("n").max(),
        place=pl.col("place").min(),
        metric_place=pl.col("metric place").min(),
    )
    ordered = together.sort("place", "metric_place").drop("place", "metric_place")
    ordered.insert_column(2, pl.Series("blocks", [blocks] * ordered.height, pl.Int32))
    return ordered
