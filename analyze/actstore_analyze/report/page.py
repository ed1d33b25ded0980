"""The report: one self-contained page about some stores, and its figures as files."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from actstore.commands.outputs import written
from actstore.errors import visible
from actstore.store import Store
from actstore_analyze import registry
from actstore_analyze.charts import charts as figures
from actstore_analyze.overlap import figure as overlap
from actstore_analyze.patch.steered import has_steers
from actstore_analyze.published import curves as published
from actstore_analyze.published.models import of_run
from actstore_analyze.report import both_ways, experiments, prose, runcard, sections
from actstore_analyze.report.experiments import Experiment, Shown
from actstore_analyze.report.sections import Table
from actstore_analyze.score.board import Board, boards
from actstore_analyze.study import answers, said, saved
from actstore_analyze.study.conditions import NONE, specs
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import Study
from actstore_analyze.study.subjects import Subject
from actstore_analyze.study.subjects import subjects as subjects_of

__all__ = ["Written", "write"]

TOGETHER = "All stores, over relative depth"
T = TypeVar("T", Experiment, Board)
PALE = "{} as published, not measured here, at the same relative depth"


@dataclass(frozen=True)
class Written:
    """What was written: bytes of the page, the folder beside it and the files in that; whether results were saved."""

    bytes: int
    folder: Path
    files: list[Path]
    saved: bool


@dataclass(frozen=True)
class Panel:
    """One store's part of a figure: a drawing, and the table behind it."""

    title: str
    svg: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A figure on the page: panels side by side, a caption, how it was computed, its files; what is said above it."""

    title: str
    caption: str
    panels: list[Panel]
    methods: str
    files: list[Path]
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def write(stores: Sequence[Store], output: Path, *, reference: str | None = None, say: Say) -> Written:
    """Write the page, and each figure as PNG, SVG and CSV into a folder beside it.

    Raises ActstoreError for an unknown reference and where it cannot be written.
    """
    curves = published.overlap(reference) if reference else None
    subjects = subjects_of(stores)
    left_out: list[str] = []
    unsaved: list[str] = []

    def leave_out(line: str) -> None:
        if ": left out, " in line:
            left_out.append(line)
        if ": not saved: " in line:
            unsaved.append(line)
        say(line)

    folder = output.with_name(f"{output.stem}_files")
    shown, drawn = _drawn(
        experiments.overlaps(subjects, say=leave_out),
        lambda one, number: _figure(one, curves, folder, number),
        leave_out,
    )
    found = experiments.others(subjects, say=leave_out)
    others, figured = _drawn(
        found, lambda one, number: _other(one, folder, number, _distinct(found, number), reference), leave_out
    )
    ranked, boarded = _drawn(
        boards(subjects, say=leave_out), lambda one, number: _board(one, folder, number), leave_out
    )
    drawn += [*figured, *boarded]
    if steers := [subject for subject in subjects if has_steers(subject.store)]:
        tables, files = sections.steering(steers, folder)
        drawn.append(
            Figure(title="Steering", caption="", panels=[], methods=sections.STEERING, files=files, tables=tables)
        )
    if (both := both_ways.compared(others)).height:
        drawn.append(_both_ways(both, folder, say))
    measured = [
        call.command(one.subject.store.path) for each in [*shown, *others] for one in each.shown for call in one.calls
    ]
    measured += [one.call.command(one.subject.store.path) for board in ranked for one in board.scores]
    commands = _commands(subjects, measured, output, reference)
    beside = reference is not None or any(of_run(subject.store.run) for subject in subjects)
    page = _page(subjects, shown, others, drawn, commands, folder, beside=beside, left_out=left_out)
    with written(output) as draft:
        draft.write_text(page, encoding="utf-8")
    return Written(len(page.encode()), folder, [path for figure in drawn for path in figure.files], not unsaved)


def _drawn(found: Sequence[T], draw: Callable[[T, int], Figure], say: Say) -> tuple[list[T], list[Figure]]:
    """What can be drawn, and its figures: what cannot is left out, and said."""
    pairs = [
        (one, saved.attempted(partial(draw, one, number), f"“{one.title}”", say)) for number, one in enumerate(found)
    ]
    return [one for one, figure in pairs if figure], [figure for _, figure in pairs if figure]


def _figure(experiment: Experiment, curves: pl.DataFrame | None, folder: Path, number: int) -> Figure:
    tables = [shown.table for shown in experiment.shown]
    end = overlap.ceiling(tables, curves)
    charts = [
        overlap.overlap(shown.table, title=shown.subject.title, reference=curves, end=end) for shown in experiment.shown
    ]
    name = f"{experiment.name}-{number + 1}" if number else experiment.name
    panels = [
        Panel(shown.subject.title, figures.svg(chart, f"f{number}p{i}"), *_wide(shown))
        for i, (shown, chart) in enumerate(zip(experiment.shown, charts, strict=True))
    ]
    return Figure(
        title=experiment.title,
        caption=_caption(experiment, curves),
        panels=panels,
        methods=prose.methods(experiment),
        files=figures.save(figures.beside(charts), _data(experiment), folder, name),
    )


def _distinct(others: Sequence[Experiment], number: int) -> str:
    """The name of an experiment's files, numbered where an earlier one has the same."""
    name = others[number].name
    before = [one.name for one in others[:number]].count(name)
    return f"{name}-{before + 1}" if before else name


def _other(experiment: Experiment, folder: Path, number: int, name: str, reference: str | None) -> Figure:
    """The figure of any measure but label overlap: its table as it is."""
    curve = None if reference is None else experiment.call.published(reference)
    behind = {} if curve is None else {"reference": curve}
    measure = registry.load(experiment.call.measure)
    tables = [shown.table for shown in experiment.shown]
    charts = [
        measure.draw(shown.table, title=shown.subject.title, tables=tables, **behind) for shown in experiment.shown
    ]
    panels = [
        Panel(shown.subject.title, figures.svg(chart, f"o{number}p{i}"), *_tidy(shown))
        for i, (shown, chart) in enumerate(zip(experiment.shown, charts, strict=True))
    ]
    files = figures.save(figures.beside(charts), _data(experiment), folder, name)
    if measure.together is not None and len(experiment.shown) > 1:
        named = {shown.subject.title: shown.table for shown in experiment.shown}
        one = measure.together(named, title=TOGETHER, references=[] if curve is None else [curve])
        joined = experiment.call.beside(named)
        panels.insert(0, Panel(TOGETHER, figures.svg(one, f"o{number}t"), *_cells(experiment.call, joined)))
        files += figures.save(one, joined, folder, f"{name}-together")
    return Figure(
        title=experiment.title,
        caption=experiment.call.caption + ("" if curve is None else f" Pale: {PALE.format(curve['model'][0])}."),
        panels=panels,
        methods=prose.methods(experiment),
        files=files,
        sentences=sections.sentences(experiment),
        tables=sections.tables(experiment),
    )


def _both_ways(both: pl.DataFrame, folder: Path, say: Say) -> Figure:
    """What ran beside what was replayed, which is said, too."""
    for row in both.iter_rows(named=True):
        say(f"{row['intervention']} of {row['ran']}, as it ran vs replayed: largest difference {row['largest']:.2g} "
            f"({row['at']}; n = {row['n']:,}, {row['dtype']}), {row['verdict']}")  # fmt: skip
    table, file = sections.ran_and_replayed(both, folder)
    methods = both_ways.METHODS
    return Figure("As it ran, and replayed", "", panels=[], methods=methods, files=[file], tables=[table])


def _board(board: Board, folder: Path, number: int) -> Figure:
    """Scores of all stores: the table with intervals above, one drawing in which the stores are rows."""
    name = "scores" if not number else f"scores-{number + 1}"
    chart, data = board.chart(), board.data
    rows = [[sections.text(value) for value in row] for row in data.iter_rows()]
    return Figure(
        title=board.title,
        caption=board.caption,
        panels=[Panel(board.title, figures.svg(chart, f"s{number}"), data.columns, rows)],
        methods=board.methods,
        files=figures.save(chart, data, folder, name),
        tables=[
            sections.as_table(
                "Scores; in brackets the 95 % interval, in square ones what was published, not measured here",
                board.side_by_side,
            )
        ],
    )


def _data(experiment: Experiment) -> pl.DataFrame:
    """The tables of all stores, one below the other."""
    return pl.concat(
        shown.table.select(pl.lit(shown.subject.title).alias("store"), pl.all()) for shown in experiment.shown
    )


def _tidy(shown: Shown) -> tuple[list[str], list[list[str]]]:
    """The table as the page has it."""
    return _cells(shown.calls[0], shown.table.drop("depth", strict=False))


def _cells(call: Study, table: pl.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Names and cells without the columns that the call says for all its rows."""
    table = table.drop(call.parameters.keys() - {"layers", "k"}, strict=False)
    return table.columns, [[sections.text(value) for value in row] for row in table.iter_rows()]


def _caption(experiment: Experiment, curves: pl.DataFrame | None) -> str:
    text = experiment.call.caption
    if curves is None:
        return text
    return (
        f"{text} Pale: {PALE.format(curves['model'][0])} "
        f"(k = {published.K}, {published.CLASSES} ImageNet classes, chance 0.010)."
    )


def _wide(shown: Shown) -> tuple[list[str], list[list[str]]]:
    """The table as people read it: a row for each layer, a column for each role."""
    table = shown.table.with_columns(figures.series())
    cells = {
        (series, layer): _cell(value, se)
        for series, layer, value, se in table.select("series", "layer", "overlap", "se").iter_rows()
    }
    series = table["series"].unique(maintain_order=True).to_list()
    layers = table["layer"].unique().sort().to_list()
    return ["layer", *series], [[str(layer), *(cells.get((one, layer), "") for one in series)] for layer in layers]


def _cell(value: float, se: float | None) -> str:
    if value != value:
        return "undefined"
    return f"{value:.3f}" + (f" ± {se:.3f}" if se is not None else "")


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


def _published_knockouts() -> list[dict[str, Any]]:
    """The papers' table as it is printed: a row for each model and knockout."""
    table = published.knockouts().with_columns(column=pl.concat_str("source", "metric", separator="_"))
    return table.pivot("column", index=["name", "knockout"], values="value").to_dicts()


def _commands(subjects: Sequence[Subject], measured: Sequence[str], output: Path, reference: str | None) -> list[str]:
    """What to type to get this page again."""
    made = [line for subject in subjects if (line := runcard.command(subject.store))]
    drawn = ["actstore", "report", *(str(subject.store.path) for subject in subjects), "-o", str(output)]
    drawn += ["--reference", reference] if reference else []
    return [f"# with actstore {version('actstore')}", *made, *measured, shlex.join(drawn)]


def _page(
    subjects: Sequence[Subject],
    shown: Sequence[Experiment],
    others: Sequence[Experiment],
    drawn: Sequence[Figure],
    commands: Sequence[str],
    folder: Path,
    *,
    beside: bool,
    left_out: Sequence[str],
) -> str:
    """The page; `beside` asks for the papers' tables too, where a store is of a model that was published."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("actstore_analyze.report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value, lines=True) if type(value) is str else value,  # figures are Markup
    )
    accuracies = _accuracies(subjects, shown)
    cards = [runcard.lines(subject.store) for subject in subjects]
    content: dict[str, Any] = {
        "title": ", ".join(dict.fromkeys(_model(subject) for subject in subjects)),
        "names": [subject.title for subject in subjects],
        "fields": list(dict.fromkeys(name for card in cards for name in card)),
        "cards": cards,
        "accuracies": accuracies,
        "figures": drawn,
        "left_out": left_out,
        "folder": folder.name,
        "conditions": len({row["condition"] for row in accuracies}) > 1,
        "how_to_read": prose.how_to_read(subjects, shown, others),
        "peaks": published.peaks().to_dicts() if beside else [],
        "knockout": _published_knockouts() if beside else [],
        "source": published.SOURCE,
        "commands": commands,
        "recipes": [
            (one.title, json.dumps(one.store.run["recipe"], indent=2))
            for one in subjects
            if one.store.run.get("recipe")
        ],
        "versions": {name: version(name) for name in ("actstore", "numpy", "faiss-cpu", "polars", "duckdb", "altair")},
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    return environment.get_template("report.html").render(content)
