"""What stands above the figures of interventions in a report: sentences, and tables of several stores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from actstore.commands.table import render
from actstore_analyze.knockout.table import Side, side_by_side
from actstore_analyze.patch.steered import SHARES, steered
from actstore_analyze.report import both_ways, causal
from actstore_analyze.report.experiments import Experiment
from actstore_analyze.study.conditions import NONE
from actstore_analyze.study.subjects import Subject

__all__ = ["STEERING", "Table", "as_table", "ran_and_replayed", "sentences", "steering", "tables", "text"]

MOST_COLUMNS = 8  # of a table of what models say, besides the sample
SAMPLES_SHOWN = 12
STEERING = (
    "Steering: scale times a vector, the mean of those in a file, less the mean of those in a second one where two are "
    "named, is added to the residual stream at a role and layer (add) or put in its place (replace), in the prompt, "
    "and at every token generated where that is said. Changed: the share of samples that say something else than "
    "without; share: that of the text said most often, and of the same text without."
)
OF_KNOCKOUTS, OF_PATCHES = {"knockout", "window"}, {"patch", "accuracy_before"}  # columns


@dataclass(frozen=True)
class Table:
    """A table above a figure: what stores of several models say beside each other.

    kind: numbers, of which the last column is words where they are judged, or said.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    kind: str = "numbers"


def sentences(experiment: Experiment) -> list[str]:
    """What interventions show in each store, in words; none for other measures."""
    found: list[str] = []
    for shown in experiment.shown:
        columns = {*shown.table.columns}
        found += [causal.knockouts(shown.subject.title, shown.table)] if columns >= OF_KNOCKOUTS else []
        found += causal.patches(shown.subject.title, shown.table) if columns >= OF_PATCHES else []
    return found


def tables(experiment: Experiment) -> list[Table]:
    """The knockouts of all stores as one table; none for other measures."""
    if not all({*shown.table.columns} >= OF_KNOCKOUTS for shown in experiment.shown):
        return []
    table = side_by_side([Side(shown.subject.store, shown.table) for shown in experiment.shown])
    whole = "".join(str(value) for row in table.iter_rows() for value in row)
    marks = {
        "*": "*: in some blocks",
        "[": "in square brackets: as published, not measured here",
        "±": "±: standard deviation over draws",
        "undefined": "undefined: all vectors at the output are the same, as where the model says the same to every "
        "sample, and none has nearest neighbours",
    }
    caption = "; ".join(["Attention blocked in all blocks", *(said for mark, said in marks.items() if mark in whole)])
    return [as_table(caption, table)]


def steering(subjects: Sequence[Subject], folder: Path) -> tuple[list[Table], list[Path]]:
    """What models say when they are steered, beside what they say without; the texts of all samples as files."""
    folder.mkdir(parents=True, exist_ok=True)
    found, files = [], []
    for number, subject in enumerate(subjects):
        said, summary = steered(subject.store)
        columns = said.columns[: MOST_COLUMNS + 1]
        few = said.gather_every(max(1, said.height // SAMPLES_SHOWN)).head(SAMPLES_SHOWN).select(columns)
        rest = len(said.columns) - len(columns)
        caption = f"{subject.title}: what {few.height} of {said.height} samples say"
        found += [
            as_table(f"{subject.title}: under each condition; in brackets: 95 %, over samples", _bracketed(summary)),
            as_table(
                caption + (f"; {rest} more conditions are in the file" if rest else ""),
                few.rename({NONE: "before"} if NONE in columns else {}),
                kind="said",
            ),
        ]
        files.append(folder / ("steering.csv" if not number else f"steering-{number + 1}.csv"))
        render(said, "csv", files[-1])
    return found, files


def _bracketed(summary: pl.DataFrame) -> pl.DataFrame:
    """The table with each share's interval beside it, in one column."""
    texts = {
        name: [
            text(value) if low is None else f"{text(value)} [{low:.2f}, {high:.2f}]"
            for value, low, high in summary.select(name, f"{name}_low", f"{name}_high").iter_rows()
        ]
        for name in SHARES
    }
    return summary.with_columns(**{name: pl.Series(one) for name, one in texts.items()}).drop(
        f"{name}{end}" for name in SHARES for end in ("_low", "_high")
    )


def ran_and_replayed(table: pl.DataFrame, folder: Path) -> tuple[Table, Path]:
    """What ran beside what was replayed, as a table of the page and as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "as-it-ran-and-replayed.csv"
    render(table, "csv", file)
    return as_table(both_ways.CAPTION, table, "numbers judged"), file


def as_table(caption: str, table: pl.DataFrame, kind: str = "numbers") -> Table:
    """A frame as a table of the page."""
    return Table(caption, table.columns, [[text(value) for value in row] for row in table.iter_rows()], kind)


def text(value: object) -> str:
    """A cell of a table."""
    if isinstance(value, float):
        return f"{value:.4g}" if value == value else "undefined"
    return "" if value is None else str(value)
