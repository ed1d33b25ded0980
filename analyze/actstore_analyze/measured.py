"""What a measure found, as Python and notebooks have it: the table, its figure, and how it was computed."""

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Protocol

import altair as alt
import polars as pl

from actstore.commands.table import render
from actstore.format.given import path_of, suffix_of
from actstore.format.results import Result
from actstore_analyze.charts import charts
from actstore_analyze.charts.charts import Figure

__all__ = ["Drawing", "Measured"]

VEGA_LITE = f"application/vnd.vegalite.{alt.SCHEMA_VERSION.partition('.')[0]}+json"


class Call(Protocol):
    """What was asked of a store, in words."""

    @property
    def title(self) -> str:
        """What was measured."""

    @property
    def caption(self) -> str:
        """What the figure shows."""

    @property
    def methods(self) -> str:
        """How it was computed."""

    def command(self, store: Path | str) -> str:
        """The command line of the call."""


@dataclass(frozen=True)
class Drawing:
    """A figure that shows itself in a notebook, offline: as SVG, as PNG, and as the Vega-Lite of both."""

    chart: Figure

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {
            VEGA_LITE: json.loads(charts.vega_lite(self.chart)),
            "image/svg+xml": self.svg,
            "image/png": b64encode(charts.png(self.chart)).decode(),
            "text/plain": repr(self),
        }

    def __repr__(self) -> str:
        return "<Drawing: .save('figure.png'), .svg, .chart (altair)>"

    @property
    def svg(self) -> str:
        """The figure as SVG."""
        return charts.svg(self.chart, f"d{id(self):x}")

    def save(self, path: Path | str) -> None:
        """Write it as .png, .svg or .pdf; raises ActstoreError for another suffix, and for a path inside a store."""
        charts.draw(self.chart, path_of(path, "a figure"))


@dataclass(frozen=True)
class Measured:
    """The answer of a store, or of several beside each other, to the call of a measure."""

    table: pl.DataFrame
    call: Call
    store: Path | str
    results: tuple[Result, ...]  # saved in the stores; fewer where one cannot be written
    draw: Callable[[], Figure]

    @property
    def title(self) -> str:
        """What was measured."""
        return self.call.title

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return self.call.caption

    @property
    def methods(self) -> str:
        """How it was computed, in sentences for a paper."""
        return self.call.methods

    @property
    def command(self) -> str:
        """The command line that asks the same."""
        return self.call.command(self.store)

    @cached_property
    def figure(self) -> Drawing:
        """The figure of the table."""
        return Drawing(self.draw())

    def save(self, path: Path | str) -> None:
        """Write the figure (.png, .svg, .pdf) or the table (.csv, .parquet, .json, .jsonl, .md, .txt).

        Raises ActstoreError for another suffix, and for a path inside a store.
        """
        path = path_of(path, "a file")
        if suffix_of(path) in (".csv", ".parquet", ".json", ".jsonl", ".md", ".txt"):
            render(self.table, output=path)
        else:
            self.figure.save(path)

    def __repr__(self) -> str:
        return f"<Measured: {self.title}; {self.table.height} rows: .table, .figure, .methods, .command, .save(path)>"

    def _repr_html_(self) -> str:
        said = f"<p><b>{escape(self.title)}</b><br>{escape(self.caption)}</p>"
        return f"{said}{self.figure.svg}{self.table._repr_html_()}<p><code>{escape(self.command)}</code></p>"
