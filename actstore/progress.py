"""Progress on standard error: a bar with rate and remaining time on a terminal, nothing elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actstore.errors import visible


@contextmanager
def bar(total: int, unit: str) -> Iterator["Bar"]:
    """A bar over `total` units; silent when standard error is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield Bar(progress, total, unit)


class Bar:
    """Counts units done."""

    def __init__(self, progress: Progress, total: int, unit: str) -> None:
        self._progress, self._unit = progress, unit
        self._task = progress.add_task(unit, total=total, rate="")

    def advance(self, count: int = 1) -> None:
        """Count `count` more units."""
        speed = self._progress.tasks[self._task].speed
        self._progress.update(self._task, advance=count, rate=f"{speed:.1f} {self._unit}/s" if speed else "")

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
