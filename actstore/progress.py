"""Progress: a bar with rate and remaining time on a terminal and in a notebook, elsewhere a line every minute."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actstore.errors import visible

KERNEL = "JPY_PARENT_PID"  # what a kernel of Jupyter has in its environment, and its commands too
EVERY = 60.0  # seconds between two lines
OFTEN = 0.2  # seconds between two states of a bar in a notebook


@contextmanager
def bar(total: int, unit: str) -> Iterator["Bar"]:
    """A bar over `total` units; where standard error is no terminal a line every minute, from the first one on."""
    console, notebook = Console(stderr=True, force_jupyter=False), _notebook()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # A kernel says that standard error is a terminal, to commands in its cells too: all states of a bar would be kept.
    here = console.is_terminal and notebook is None and KERNEL not in os.environ
    with Progress(*columns, console=console, disable=not here, transient=True) as progress:
        one, over = Bar(progress, total, unit, notebook), Event()
        if not (here or notebook):
            Thread(target=_every_minute, args=(one, over), name="progress", daemon=True).start()
        try:
            yield one
        finally:
            over.set()
            if notebook:
                notebook.clear()


def _every_minute(one: "Bar", over: Event) -> None:
    while not over.wait(EVERY):
        one.say(one.line())


def _notebook() -> "Notebook | None":
    """The output of the cell that runs, if Python is the kernel of a notebook; IPython is there then."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return Notebook() if hasattr(shell, "kernel") else None


class Notebook:
    """One output of a cell, changed in its place at most some times a second."""

    def __init__(self) -> None:
        display = sys.modules["IPython"].display
        self._handle = display.display(self._bundle("", ""), raw=True, display_id=True)
        self._shown = -OFTEN

    def show(self, share: float, line: str) -> None:
        """A bar that is full at 1, and what is said beside it."""
        if time.monotonic() - self._shown >= OFTEN:
            self._shown = time.monotonic()
            self._handle.update(self._bundle(line, f"<progress value={share:.4f}></progress> {escape(line)}"), raw=True)

    def clear(self) -> None:
        """Leave nothing behind."""
        self._handle.update(self._bundle("", ""), raw=True)

    @staticmethod
    def _bundle(text: str, html: str) -> dict[str, str]:
        return {"text/plain": text, "text/html": html}


class Bar:
    """Counts units done."""

    def __init__(self, progress: Progress, total: int, unit: str, notebook: Notebook | None = None) -> None:
        self._progress, self._total, self._unit, self._notebook = progress, total, unit, notebook
        self._task = progress.add_task(unit, total=total, rate="")
        self._done, self._note, self._began = 0, "", time.monotonic()
        self._show()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` is how it stands, such as a loss."""
        self._done, self._note = self._done + count, note
        speed = self._progress.tasks[self._task].speed
        rate = f"{speed:.1f} {self._unit}/s" if speed else ""
        self._progress.update(self._task, advance=count, rate=", ".join(filter(None, (rate, note))))
        self._show()

    def _show(self) -> None:
        if self._notebook:
            self._notebook.show(self._done / max(1, self._total), self.line())

    def line(self) -> str:
        """How far it is, and how long the rest will take at the rate so far."""
        seconds = time.monotonic() - self._began
        left = [f"about {duration(seconds / self._done * (self._total - self._done))} left"] if self._done else []
        return ", ".join(filter(None, (f"{self._done} of {self._total} {self._unit}", self._note, *left)))

    def say(self, text: str) -> None:
        """Print a line on standard error without tearing the bar."""
        shown = visible(text, lines=True)
        self._progress.console.print(shown, highlight=False, markup=False, emoji=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(42.3), duration(3700)
    ('42 s', '1 h 1 min')
    """
    minutes = int(seconds // 60)
    if not minutes:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds % 60:.0f} s"
