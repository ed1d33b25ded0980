"""Calls of `actstore knockout`: what is left under each knockout of a store, with the repeats of one put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import polars as pl

from actstore.errors import ActstoreError
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.knockout.differences import PAIRED, Left, left, of_overlaps
from actstore_analyze.overlap.measure import chance_level
from actstore_analyze.overlap.study import say_highest
from actstore_analyze.published import curves
from actstore_analyze.score.study import ALL, Scored
from actstore_analyze.study import answers, said
from actstore_analyze.study.conditions import NONE, samples_under
from actstore_analyze.study.differences import TOLD, of_samples
from actstore_analyze.study.intervals import Z, wilson
from actstore_analyze.study.knocked import Knocked, knocked
from actstore_analyze.study.selection import Say, choose, groups
from actstore_analyze.study.study import EVERYTHING, METRICS, RESIDUAL, WithInterval, n_layers
from actstore_analyze.study.units import Unit, enough, labels, said_where, vectors

__all__ = ["FOUND", "WORDS", "Knockout", "as_found", "averaged", "means", "say_copies", "with_share"]
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
class Knockout(WithInterval):
    """A call of `actstore knockout`; the overlap is taken at `layers`, one of them."""

    label: str = "label"
    role: str = LAST
    k: int = 30
    interval: str = "paired scores, pairs once"

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
            f"{self.on_interval(PAIRED)}Rows: {self.sql}."
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
                raise ActstoreError(f"no role '{self.role}' in {store}")
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
        return [Unit(group, self.layers[0]) for group in found]

    def left(self, store: Store, unit: Unit) -> Left:
        """The label overlap under one condition, the mean over the role's positions."""
        samples = unit.group.positions[0]["sample_id"].to_list()
        return said_where(unit, lambda: left(unit.group.condition, samples, [*vectors(store, unit)], self.k))

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """knockout, window, blocks, mode, metric, value, low, high, difference, difference_low, difference_high,
        spread, repeats, chance, n, by knockout and window.

        window: the last of `blocks`, 0 for the model as it is, NULL for others than the last; low and high: 95 %
        interval, of repeats the mean of theirs; difference: from the model as it is, over the same samples; spread:
        standard deviation over repeats (n - 1), NULL without any.
        """
        conditions, right = knocked(store), answers.right(store, self.label) or self.label
        units = self.units(store, say=say)
        chance = chance_level(labels(units[0].group.positions[0])) if units else None
        overlaps = self.mapped(store, self.left, units)
        say_copies(overlaps, self.role, say=say)
        asked = samples_under([one.condition for one in conditions], self.sql)
        probabilities, scored = _probabilities(store, asked, right), _scored(store, asked, say)
        told = [_right(store, asked, right), probabilities, *(own for _, own in scored)]
        scores = [_as_found(table) for table, _ in scored]
        found = pl.concat([as_found(overlaps, chance), *scores, _accuracy(store, asked, right), means(probabilities)])
        if not found.height:
            raise ActstoreError(f"nothing to measure in {store}: neither labels, nor answers, nor captions")
        differences = pl.concat([of_overlaps(overlaps), of_samples(pl.concat(told))])
        return averaged(found, differences, conditions, n_layers(store))


def with_share(table: pl.DataFrame) -> pl.DataFrame:
    """The table with share: the value over that of the model as it is; NULL where that is none, 0 or undefined."""
    plain = table.filter(pl.col("knockout") == NONE, pl.col("value").is_not_nan()).select("metric", before="value")
    joined = table.join(plain, on="metric", how="left", maintain_order="left")
    share = pl.when(pl.col("before") > 0).then(pl.col("value") / pl.col("before"))
    return joined.with_columns(share=share.fill_nan(None)).drop("before")


def say_copies(overlaps: Sequence[Left], role: str, *, say: Say) -> None:
    """Say, once, of the condition with the most of them, that vectors are copies of others."""
    worst = max(overlaps, key=lambda one: one.copies, default=None)
    if worst and worst.copies:
        say(
            f"label overlap: {worst.copies} of {len(worst.samples)} vectors of {role} under '{worst.condition}' are "
            "identical with others, their nearest neighbours at distance 0; actstore overlap measures without them "
            "(--unique, --group)"
        )


def _table(rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=FOUND, orient="row")


def _scored(store: Store, asked: str, say: Say) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """What the model said, scored as far as the samples have references: the table of each task, and TOLD."""
    columns = store.sql(f"from ({asked}) limit 0").columns
    found = []
    for task, truth in TASKS.items():
        if truth not in columns:
            continue
        try:
            call = Scored.of(store, task=task, sql=asked)
            samples = call.samples(store, say=say)
            found.append((call.scored(samples), call.told(samples)))
        except ActstoreError as error:
            say(f"no scores of task {task}: {error}")
    return found


def _as_found(scores: pl.DataFrame) -> pl.DataFrame:
    """FOUND, of scores."""
    whole = scores.filter(pl.col("split") == ALL)
    return whole.select(
        "condition", "metric", pl.col("score").alias("value"), "low", "high",
        pl.lit(None, pl.Float64).alias("chance"), "n",
    )  # fmt: skip


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


def _right(store: Store, asked: str, label: str) -> pl.DataFrame:
    """TOLD, of whether each sample's next token is its label."""
    found = said.told(store, label, sql=asked)
    return TOLD.clear() if found is None else found.select(
        "condition", "sample_id", metric=pl.lit("accuracy"), value=pl.col("is_right").cast(pl.Float64)
    )  # fmt: skip


def _probabilities(store: Store, asked: str, label: str) -> pl.DataFrame:
    """TOLD, of the probability of each label's word as next token."""
    at = answers.places(store)
    if not at or label not in store.sql(f"from ({asked}) limit 0").columns:
        return TOLD.clear()
    place = " ".join(f"when {literal(word)} then {i + 1}" for word, i in at.items())
    found = store.sql(
        f'with p as (select condition, sample_id, answer_probabilities[case cast("{label}" as varchar) {place} end]'
        f" as value from ({asked})) from p where value is not null order by condition, sample_id"
    )
    return found.select(
        "condition", "sample_id", metric=pl.lit("answer_probability"), value=pl.col("value").cast(pl.Float64)
    )


def means(told: pl.DataFrame) -> pl.DataFrame:
    """FOUND, of values of samples: their mean, with its normal interval."""
    error = pl.col("value").std() / pl.len().sqrt()
    found = told.group_by("condition", "metric", maintain_order=True).agg(
        pl.col("value").mean(), error=error, n=pl.len().cast(pl.Int64)
    )
    low, high = (pl.col("value") + sign * Z * pl.col("error") for sign in (-1, 1))
    return found.select(
        "condition", "metric", "value", low=low.clip(0, 1), high=high.clip(0, 1), chance=pl.lit(None, pl.Float64), n="n"
    )


def as_found(overlaps: Sequence[Left], chance: float | None) -> pl.DataFrame:
    """FOUND, of label overlaps."""
    rows = [(one.condition, "overlap", one.value, *one.interval, chance, len(one.samples)) for one in overlaps]
    return _table(rows)


def averaged(
    found: pl.DataFrame, differences: pl.DataFrame, conditions: Sequence[Knocked], blocks: int
) -> pl.DataFrame:
    """Repeats put together, in the order of the run card, with their differences from the model as it is."""
    named = pl.DataFrame([(*one, i) for i, one in enumerate(conditions)], schema=_NAMED, orient="row")
    own = pl.DataFrame({"metric": list(WORDS), "metric place": range(len(WORDS))})
    found = found.join(differences, on=["condition", "metric"], how="left")
    joined = found.join(named, on="condition").join(own, on="metric")
    together = joined.group_by("knockout", "window", "mode", "metric").agg(
        pl.col("value", "low", "high", "difference", "difference_low", "difference_high").mean(),
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
