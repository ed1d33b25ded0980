"""Scores of several models beside each other: saved results of one task, as a table and as a figure."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from actstore.errors import ActstoreError
from actstore.format.results import Result
from actstore_analyze.charts import lines
from actstore_analyze.charts.charts import decimals, heading
from actstore_analyze.charts.dots import dots
from actstore_analyze.published import models
from actstore_analyze.score.published import beside
from actstore_analyze.score.reviews import Reviewed
from actstore_analyze.score.study import ALL, EVERY_SAMPLE, Scored
from actstore_analyze.study import saved
from actstore_analyze.study.selection import Say
from actstore_analyze.study.subjects import Subject

__all__ = ["NAMES", "Board", "Score", "boards", "words"]

TELLING = ("said", "truth", "differences")  # parameters that scores beside each other need not share
NAMES = {
    "vqa": "VQA accuracy",
    "cider": "CIDEr",
    "pope": "POPE",
    "gqa": "GQA",
    "mme": "MME",
    "llava-bench": "LLaVA-Bench",
    "answers": "answers",
}
METRIC = {
    "vqa_accuracy": "VQA accuracy",
    "vqa_of_all": "VQA accuracy, min(#/3, 1)",
    "f1": "F1",
    "yes": "says yes",
    **{f"cider{d}{ptb}": f"CIDEr{d.upper().replace('_', '-')}{ptb and ', PTB tokens'}"
       for d in ("", "_d") for ptb in ("", "_ptb")},
}  # fmt: skip
PLAIN = pl.col("condition") == "none"


@dataclass(frozen=True)
class Score:
    """What one store was asked and answered."""

    subject: Subject
    call: Scored
    table: pl.DataFrame

    @property
    def ordered(self) -> pl.DataFrame:
        """The table, the model as it is before its conditions."""
        return self.table.sort(~PLAIN, maintain_order=True)

    @property
    def published(self) -> pl.DataFrame:
        """The same with what was published of the model, NULL where we have nothing."""
        model = models.of_run(self.subject.store.run)
        if model is None:
            return self.ordered.with_columns(published=pl.lit(None, pl.Float64))
        return beside(self.ordered, self.subject.store, model)


@dataclass(frozen=True)
class Board:
    """Scores of one task on the same samples, of one model or several."""

    scores: list[Score]

    @property
    def _call(self) -> Scored:
        return self.scores[0].call

    @property
    def title(self) -> str:
        """What was scored, as a heading."""
        asked = [f"Scores: {NAMES[self._call.task]}"]
        asked += [f"judged by {self._call.judge}"] if isinstance(self._call, Reviewed) else []
        return ", ".join([*asked, *([self._call.sql] if self._call.sql != EVERY_SAMPLE else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return "Scores of what the models said, all splits together, with 95 % intervals."

    @property
    def methods(self) -> str:
        """How it was computed."""
        columns = sorted({f"{one.call.said} against {one.call.truth}" for one in self.scores})
        judge = f", rated by {self._call.judge}" if isinstance(self._call, Reviewed) else ""
        return (
            f"Scores ({NAMES[self._call.task]}): {'; '.join(columns)}{judge}. Intervals of 95 %: Wilson's of shares, "
            f"the bootstrap's over samples of means and F1. Rows: {self._call.sql}."
        )

    def command(self, store: Path | str) -> str:
        """The command line of the call on a store."""
        return self._call.command(store)

    @property
    def data(self) -> pl.DataFrame:
        """The tables of all stores, one below the other; the model as it is before its conditions."""
        tables = (one.ordered.select(pl.lit(one.subject.title).alias("store"), pl.all()) for one in self.scores)
        return pl.concat(tables, how="diagonal")

    @property
    def side_by_side(self) -> pl.DataFrame:
        """A row for each store, condition and split; a column for each metric: the score and its interval, and in
        square brackets what was published of the model that the store's run card names.
        """
        places, ends = decimals(pl.col("score")), (decimals(pl.col(name)) for name in ("low", "high"))
        printed = pl.format(" [{}]", decimals(pl.col("published"))).fill_null("")
        own = pl.concat(one.published.select("published") for one in self.scores)
        said = self.data.with_columns(own).with_columns(
            cell=pl.concat_str(pl.format("{} ({} to {})", places, *ends), printed)
        )
        wide = said.pivot("metric", index=["store", "split", *self._telling, "n"], values="cell")
        return wide.rename({metric: words(metric) for metric in said["metric"].unique()})

    @property
    def _telling(self) -> list[str]:
        """Columns that tell rows of a store apart."""
        return [name for name in ("condition", "said", "truth") if self.data[name].n_unique() > 1]

    def chart(self) -> alt.VConcatChart:
        """A chart for each metric, a row for each model and condition, the interval as a rule."""
        table = self.data.filter(pl.col("split") == ALL)
        told = [name for name in self._telling if name != "condition"]
        condition = pl.when(PLAIN).then(pl.lit("")).otherwise(pl.format(", {}", "condition"))
        table = table.with_columns(name=pl.concat_str("store", condition, *(pl.format(", {}", name) for name in told)))
        charts = [_of_metric(own, str(metric)) for (metric,), own in table.group_by("metric", maintain_order=True)]
        n = table["n"].unique().sort()
        charts[0] = charts[0].properties(title=heading(self.title, f"n = {', '.join(f'{one:,}' for one in n)}"))
        return alt.vconcat(*charts, spacing=12)


def boards(subjects: Sequence[Subject], *, takes: Callable[[Result], bool] = lambda _: True, say: Say) -> list[Board]:
    """The scores of the stores as they are now, those of the same task and samples together, in the tasks' order.

    takes: which of the saved results.
    """
    found: dict[str, list[Score]] = {}
    for subject in subjects:
        for call, table in _saved(subject, takes, say):
            same = {name: value for name, value in call.parameters.items() if name not in TELLING}
            found.setdefault(json.dumps(same, sort_keys=True), []).append(Score(subject, call, table))
    return sorted(map(Board, found.values()), key=lambda board: list(NAMES).index(board.scores[0].call.task))


def _saved(subject: Subject, takes: Callable[[Result], bool], say: Say) -> list[tuple[Scored, pl.DataFrame]]:
    def again(parameters: dict[str, Any]) -> Scored:
        call = (Reviewed if "judge" in parameters else Scored)(**{"differences": False, **parameters})
        if call.task not in NAMES:
            raise ActstoreError(f"a task that this version does not know: {call.task}")
        return call

    def draw(call: Scored, table: pl.DataFrame) -> alt.VConcatChart:
        return Board([Score(subject, call, table)]).chart()

    return saved.shown(subject.store, Scored.measure, again, draw, say, takes=takes)[::-1]


def _of_metric(own: pl.DataFrame, metric: str) -> alt.LayerChart:
    score, title = pl.col("score"), words(metric)
    said = pl.format("{}: {} {} ({} to {}), n = {}", "name", pl.lit(title),
                     *map(decimals, (score, pl.col("low"), pl.col("high"))), "n")  # fmt: skip
    highest = max(own["high"].to_list())
    end = 1.0 if highest <= 1 else lines.halves([highest])[1]
    return dots(own.select("name", "low", "high", value="score", text=said), title=title, ends=(0.0, end))


def words(metric: str) -> str:
    """A metric, as tables and figures call it."""
    return METRIC.get(metric, metric.replace("_", " "))
