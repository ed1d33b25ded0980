"""The report: one self-contained page about some stores, and its figures as files."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from actstore.commands.outputs import written
from actstore.errors import ActstoreError, visible
from actstore.format.given import suffix_of
from actstore.store import Store
from actstore_analyze.published import curves as published
from actstore_analyze.published.models import of_run
from actstore_analyze.report import both_ways, experiments, figures, findings, prose, runcard, samples
from actstore_analyze.report.choice import Choice, choose
from actstore_analyze.report.experiments import Experiment
from actstore_analyze.report.figures import Figure
from actstore_analyze.report.places import Places
from actstore_analyze.score.board import Board, boards
from actstore_analyze.study import answers, said, saved
from actstore_analyze.study.conditions import NONE, specs
from actstore_analyze.study.selection import Say
from actstore_analyze.study.subjects import Subject
from actstore_analyze.study.subjects import subjects as subjects_of

__all__ = ["Written", "write"]

T = TypeVar("T", Experiment, Board)


@dataclass(frozen=True)
class Written:
    """What was written: bytes of the page, how many pictures of samples are in it, the folder beside it and the files
    in that; whether results were saved."""

    bytes: int
    pictures: int
    folder: Path
    files: list[Path]
    saved: bool


@dataclass(frozen=True)
class Measured:
    """What stands on the page: answers to the calls of measures, scores, and the figures of all of them."""

    overlaps: list[Experiment]
    others: list[Experiment]
    boards: list[Board]
    drawn: list[Figure]

    @property
    def paths(self) -> list[Path]:
        """Files and folders that calls name: autoencoders, vectors, other stores."""
        calls = [call.parameters for one in self.experiments for shown in one.shown for call in shown.calls]
        values = [value for parameters in calls for value in parameters.values() if isinstance(value, str)]
        return [Path(value) for value in values if Path(value).is_absolute()]

    @property
    def experiments(self) -> list[Experiment]:
        """All but the scores."""
        return [*self.overlaps, *self.others]


def write(
    stores: Sequence[Store],
    output: Path,
    *,
    reference: str | None = None,
    only: Sequence[str] = (),
    title: str | None = None,
    say: Say,
) -> Written:
    """Write the page, and each figure as PNG, SVG, PDF and CSV into a folder beside it.

    only: measures, or saved results by their names; everything without any. title: in place of the models' names.

    Raises ActstoreError for an unknown reference, for a name that nothing has, and where it cannot be written.
    """
    if suffix_of(output) not in (".html", ".htm"):
        raise ActstoreError(f"{output}: the report is one .html file; its figures are written beside it as .pdf, too")
    subjects = subjects_of(stores)
    choice = choose(only, subjects)
    left_out: list[str] = []
    unsaved: list[str] = []

    def leave_out(line: str) -> None:
        if ": left out, " in line:
            left_out.append(line)
        if ": not saved: " in line:
            unsaved.append(line)
        say(line)

    folder = output.with_name(f"{output.stem}_files")
    measured = _measured(subjects, folder, reference, choice, leave_out)
    places = Places([*(subject.store.place for subject in subjects), output], measured.paths)
    commands = _commands(subjects, measured, places, output, reference, only, title)
    beside = reference is not None or any(of_run(subject.store.run) for subject in subjects)
    shown = samples.rows(subjects) if choice.asks("samples") else []
    content: dict[str, Any] = {
        "title": title or ", ".join(dict.fromkeys(_model(subject) for subject in subjects)),
        "names": [subject.title for subject in subjects],
        "findings": findings.findings(measured.experiments),
        "runs": runcard.compared(subjects, places),
        "accuracies": _accuracies(subjects, measured.overlaps) if choice.asks("samples") else [],
        "samples": shown,
        "chosen": bool(only),
        "figures": measured.drawn,
        "anchors": [_anchor(figure.title, number) for number, figure in enumerate(measured.drawn)],
        "left_out": left_out,
        "folder": folder.name,
        "how_to_read": prose.how_to_read(subjects, measured.overlaps, measured.others, beside=beside),
        "commands": commands,
        "recipes": [(one.title, text) for one in subjects if (text := runcard.recipe(one.store, places))],
        "versions": {name: version(name) for name in ("actstore", "numpy", "faiss-cpu", "polars", "duckdb", "altair")},
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        **(_published() if beside else {"peaks": [], "knockout": [], "source": ""}),
    }
    page = _page(content, places)
    with written(output) as draft:
        draft.write_text(page, encoding="utf-8")
    files = [path for figure in measured.drawn for path in figure.files]
    pictures = sum(card.picture is not None for row in shown for card in row.cards)
    return Written(len(page.encode()), pictures, folder, files, not unsaved)


def _measured(subjects: Sequence[Subject], folder: Path, reference: str | None, choice: Choice, say: Say) -> Measured:
    """What the stores hold, or are asked for, as figures: what cannot be drawn is left out, and said."""
    curves = published.overlap(reference) if reference else None
    shown, drawn = _drawn(
        experiments.overlaps(subjects, choice=choice, say=say),
        lambda one, number: figures.of_overlap(one, curves, folder, number),
        say,
    )
    found = experiments.others(subjects, choice=choice, say=say)
    others, figured = _drawn(
        found, lambda one, number: figures.of_measure(one, folder, number, _distinct(found, number), reference), say
    )
    ranked, boarded = _drawn(
        boards(subjects, takes=choice.takes, say=say), lambda one, number: figures.of_board(one, folder, number), say
    )
    drawn += [*figured, *boarded]
    if choice.asks("steer") and (steering := figures.of_steering(subjects, folder)) is not None:
        drawn.append(steering)
    if (both := both_ways.compared(others)).height:
        drawn.append(figures.of_both_ways(both, folder, say))
    return Measured(shown, others, ranked, drawn)


def _drawn(found: Sequence[T], draw: Callable[[T, int], Figure], say: Say) -> tuple[list[T], list[Figure]]:
    """What can be drawn, and its figures: what cannot is left out, and said."""
    pairs = [
        (one, saved.attempted(partial(draw, one, number), f"“{one.title}”", say)) for number, one in enumerate(found)
    ]
    return [one for one, figure in pairs if figure], [figure for _, figure in pairs if figure]


def _distinct(others: Sequence[Experiment], number: int) -> str:
    """The name of an experiment's files, numbered where an earlier one has the same."""
    name = others[number].name
    before = [one.name for one in others[:number]].count(name)
    return f"{name}-{before + 1}" if before else name


def _anchor(title: str, number: int) -> str:
    """Where a figure is on the page.

    >>> _anchor("Label overlap with “label”, k = 30", 0)
    'label-overlap-with-label-k-30-1'
    """
    return f"{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}-{number + 1}"


def _accuracies(subjects: Sequence[Subject], shown: Sequence[Experiment]) -> list[dict[str, str]]:
    """A row for each store, condition and split: how often the model said the label."""
    label = str(shown[0].call.parameters["label"]) if shown else "label"
    plain = {_model(subject) for subject in subjects if not specs(subject.store)}
    return [
        {
            "store": subject.title,
            "condition": row["condition"],
            "split": row["split"],
            "accuracy": f"{row['accuracy']:.3f}",
            "interval": f"{row['low']:.3f} to {row['high']:.3f}",
            "right": f"{row['right']:,} of {row['n']:,}",
        }
        for subject in subjects
        if not (specs(subject.store) and _model(subject) in plain)
        if (table := said.accuracy(subject.store, answers.right(subject.store, label) or label)) is not None
        for row in table.iter_rows(named=True)
        if row["condition"] == NONE or not specs(subject.store)  # interventions have sections of their own
    ]


def _model(subject: Subject) -> str:
    """The model without its folder or owner; the store's title where none is known."""
    return str(subject.store.run.get("model") or "").rstrip("/").split("/")[-1] or subject.title


def _published() -> dict[str, Any]:
    """The papers' tables as they are printed: largest overlaps, and a row for each model and knockout."""
    table = published.knockouts().with_columns(column=pl.concat_str("source", "metric", separator="_"))
    return {
        "peaks": published.peaks().to_dicts(),
        "knockout": table.pivot("column", index=["name", "knockout"], values="value").to_dicts(),
        "source": published.SOURCE,
    }


def _commands(
    subjects: Sequence[Subject],
    measured: Measured,
    places: Places,
    output: Path,
    reference: str | None,
    only: Sequence[str],
    title: str | None,
) -> list[str]:
    """What to type to get this page again, in the folder that holds the stores."""
    made = [line for subject in subjects for line in runcard.commands(subject.store, places)]
    asked = [
        call.command(one.subject.store.place)
        for each in measured.experiments
        for one in each.shown
        for call in one.calls
    ]
    asked += [one.call.command(one.subject.store.place) for board in measured.boards for one in board.scores]
    drawn = ["actstore", "report", *(subject.store.place for subject in subjects), "-o", str(output)]
    options = {"--reference": reference, "--only": ",".join(only), "--title": title}
    drawn += [word for flag, value in options.items() if value for word in (flag, value)]
    said = [places.command(words) for words in [*map(shlex.split, asked), drawn]]
    return [f"# with actstore {version('actstore')}, in the folder that holds these stores", *made, *said]


def _page(content: dict[str, Any], places: Places) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("actstore_analyze.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # figures are Markup
        finalize=lambda value: visible(places.text(value), lines=True) if type(value) is str else value,
    )
    return environment.get_template("report.html").render(content)
