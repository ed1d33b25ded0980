"""Figures of a report: drawings of several stores side by side, the tables behind them, and their files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from actstore_analyze import registry
from actstore_analyze.charts import charts
from actstore_analyze.charts.small import small
from actstore_analyze.overlap import figure as overlap
from actstore_analyze.patch.steered import has_steers
from actstore_analyze.published import curves as published
from actstore_analyze.report import both_ways, findings, prose, sections
from actstore_analyze.report.experiments import Experiment, Shown
from actstore_analyze.report.sections import Table
from actstore_analyze.score.board import Board
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import Study
from actstore_analyze.study.subjects import Subject

__all__ = ["TOGETHER", "Figure", "of_board", "of_both_ways", "of_measure", "of_overlap", "of_steering"]

TOGETHER = "All stores, over relative depth"
PALE = "{} as published, not measured here, at the same relative depth"
WIDE = 640  # pixels, above which a drawing takes a row of its own
FEW = 3  # panels, beyond which they are small


@dataclass(frozen=True)
class Panel:
    """One store's part of a figure: a drawing, and the table behind it."""

    title: str
    svg: str
    columns: list[str]
    rows: list[list[str]]
    why: str = ""  # cells are undefined
    whole: bool = False

    @property
    def wide(self) -> bool:
        """Whether the drawing has a row of its own: it is said to, or too wide for a column."""
        return self.whole or self.width > WIDE

    @property
    def width(self) -> int:
        """Pixels across which it is drawn; 0 where it does not say."""
        width = re.search(r'<svg[^>]* width="(\d+)', self.svg)
        return int(width[1]) if width else 0


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

    @property
    def many(self) -> bool:
        """Whether the panels are so many that they are small."""
        return len(self.panels) > FEW


def of_overlap(experiment: Experiment, curves: pl.DataFrame | None, folder: Path, number: int) -> Figure:
    """Label overlap of each store, curves that were published behind it."""
    tables = [shown.table for shown in experiment.shown]
    end = overlap.ceiling(tables, curves)
    drawn = [
        overlap.overlap(shown.table, title=shown.subject.title, reference=curves, end=end) for shown in experiment.shown
    ]
    name = f"{experiment.name}-{number + 1}" if number else experiment.name
    panels = [
        Panel(shown.subject.title, _svg(chart, f"f{number}p{i}", drawn), *_wide(shown), _why(shown))
        for i, (shown, chart) in enumerate(zip(experiment.shown, drawn, strict=True))
    ]
    pale = "" if curves is None else (
        f" Pale: {PALE.format(curves['model'][0])} (k = {published.K}, {published.CLASSES} ImageNet classes, "
        "chance 0.010)."
    )  # fmt: skip
    return Figure(
        title=experiment.title,
        caption=_caption(experiment) + pale,
        panels=panels,
        methods=prose.methods(experiment),
        files=charts.save(charts.beside(drawn), _data(experiment), folder, name),
    )


def of_measure(experiment: Experiment, folder: Path, number: int, name: str, reference: str | None) -> Figure:
    """The figure of any measure but label overlap: its table as it is."""
    curve = None if reference is None else experiment.call.published(reference)
    behind = {} if curve is None else {"reference": curve}
    measure = registry.load(experiment.call.measure)
    tables = [shown.table for shown in experiment.shown]
    drawn = [
        measure.draw(shown.table, title=shown.subject.title, tables=tables, **behind) for shown in experiment.shown
    ]
    panels = [
        Panel(shown.subject.title, _svg(chart, f"o{number}p{i}", drawn), *_tidy(shown), _why(shown))
        for i, (shown, chart) in enumerate(zip(experiment.shown, drawn, strict=True))
    ]
    files = charts.save(charts.beside(drawn), _data(experiment), folder, name)
    if measure.together is not None and len(experiment.shown) > 1:
        named = {shown.subject.title: shown.table for shown in experiment.shown}
        one = measure.together(named, title=TOGETHER, references=[] if curve is None else [curve])
        joined = experiment.call.beside(named)
        together = Panel(
            TOGETHER, charts.svg(one, f"o{number}t"), *_cells(experiment.call, joined), whole=len(drawn) > FEW
        )
        panels.insert(0, together)
        files += charts.save(one, joined, folder, f"{name}-together")
    return Figure(
        title=experiment.title,
        caption=_caption(experiment) + ("" if curve is None else f" Pale: {PALE.format(curve['model'][0])}."),
        panels=panels,
        methods=prose.methods(experiment),
        files=files,
        sentences=sections.sentences(experiment),
        tables=sections.tables(experiment),
    )


def _svg(chart: charts.Figure, prefix: str, all_of_them: Sequence[charts.Figure]) -> str:
    """A panel's drawing, small where there are many."""
    return charts.svg(chart, prefix, smaller=small if len(all_of_them) > FEW else None)


def of_both_ways(both: pl.DataFrame, folder: Path, say: Say) -> Figure:
    """What ran beside what was replayed, which is said, too."""
    for row in both.iter_rows(named=True):
        say(f"{row['intervention']} of {row['ran']}, as it ran vs replayed: largest difference {row['largest']:.2g} "
            f"({row['at']}; n = {row['n']:,}, {row['dtype']}), {row['verdict']}")  # fmt: skip
    table, file = sections.ran_and_replayed(both, folder)
    methods = both_ways.METHODS
    return Figure("As it ran, and replayed", "", panels=[], methods=methods, files=[file], tables=[table])


def of_steering(subjects: Sequence[Subject], folder: Path) -> Figure | None:
    """What steered models say; None where no store has any."""
    steered = [subject for subject in subjects if has_steers(subject.store)]
    if not steered:
        return None
    tables, files = sections.steering(steered, folder)
    return Figure("Steering", "", panels=[], methods=sections.STEERING, files=files, tables=tables)


def of_board(board: Board, folder: Path, number: int) -> Figure:
    """Scores of all stores: the table with intervals above, one drawing in which the stores are rows."""
    name = "scores" if not number else f"scores-{number + 1}"
    chart, data = board.chart(), board.data
    rows = [[sections.text(value) for value in row] for row in data.iter_rows()]
    return Figure(
        title=board.title,
        caption=board.caption,
        panels=[Panel(board.title, charts.svg(chart, f"s{number}"), data.columns, rows)],
        methods=board.methods,
        files=charts.save(chart, data, folder, name),
        tables=[
            sections.as_table(
                "Scores; in brackets the 95 % interval, in square ones what was published, not measured here",
                board.side_by_side,
            )
        ],
    )


def _data(experiment: Experiment) -> pl.DataFrame:
    """The tables of all stores, one below the other."""
    own = [shown.table.select(pl.lit(shown.subject.title).alias("store"), pl.all()) for shown in experiment.shown]
    return pl.concat(own, how="diagonal_relaxed")  # versions differ in columns


def _tidy(shown: Shown) -> tuple[list[str], list[list[str]]]:
    """The table as the page has it."""
    return _cells(shown.calls[0], shown.table.drop("depth", strict=False))


def _cells(call: Study, table: pl.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Names and cells without the columns that the call says for all its rows."""
    table = table.drop(call.parameters.keys() - {"layers", "k"}, strict=False)
    return table.columns, [[sections.text(value) for value in row] for row in table.iter_rows()]


def _caption(experiment: Experiment) -> str:
    """What the figure shows, and what there is to see in it."""
    return " ".join(filter(None, [experiment.call.caption, findings.to_see(experiment)]))


def _why(shown: Shown) -> str:
    """Why cells of the table are undefined; nothing where none is."""
    table = shown.table
    if "reason" in table.columns and table["reason"].count():
        return "; ".join(shown.calls[0].remarks(table))
    is_nan = any(table[name].is_nan().any() for name, kind in table.schema.items() if kind.is_float())
    return prose.UNDEFINED if is_nan else ""


def _wide(shown: Shown) -> tuple[list[str], list[list[str]]]:
    """The table as people read it: a row for each layer, a column for each role."""
    table = shown.table.with_columns(charts.series())
    ends = ("low", "high") if "low" in table.columns else ()  # as versions before the columns took it
    cells = {
        (series, layer): _cell(value, se, *interval)
        for series, layer, value, se, *interval in table.select("series", "layer", "overlap", "se", *ends).iter_rows()
    }
    series = table["series"].unique(maintain_order=True).to_list()
    layers = table["layer"].unique().sort().to_list()
    return ["layer", *series], [[str(layer), *(cells.get((one, layer), "") for one in series)] for layer in layers]


def _cell(value: float, se: float | None, low: float | None = None, high: float | None = None) -> str:
    if value != value:
        return "undefined"
    if low is not None and high is not None:
        return f"{value:.3f} ({low:.3f} to {high:.3f})"
    return f"{value:.3f}" + (f" ± {se:.3f}" if se is not None else "")
