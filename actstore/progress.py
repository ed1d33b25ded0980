"""Progress on standard error: a bar with rate and remaining time on a terminal, a line every minute elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actstore.errors import visible

EVERY = 60.0  # seconds between two lines


@contextmanager
def bar(total: int, unit: str) -> Iterator["Bar"]:
    """A bar over `total` units; where standard error is no terminal a line every minute, from the first one on."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        one, over = Bar(progress, total, unit), Event()
        if not console.is_terminal:
            Thread(target=_every_minute, args=(one, over), name="progress", daemon=True).start()
        try:
            yield one
        finally:
            over.set()


def _every_minute(one: "Bar", over: Event) -> None:
    while not over.wait(EVERY):
        one.say(one.line())


class Bar:
    """Counts units done."""

    def __init__(self, progress: Progress, total: int, unit: str) -> None:
        self._progress, self._total, self._unit = progress, total, unit
        self._task = progress.add_task(unit, total=total, rate="")
        self._done, self._note, self._began = 0, "", time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` is how it stands, such as a loss."""
        self._done, self._note = self._done + count, note
        speed = self._progress.tasks[self._task].speed
        rate = f"{speed:.1f} {self._unit}/s" if speed else ""
        self._progress.update(self._task, advance=count, rate=", ".join(filter(None, (rate, note))))

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
