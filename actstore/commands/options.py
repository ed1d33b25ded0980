"""Options that several commands share, so that they are the same everywhere."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from actstore.commands import outputs
from actstore.commands.table import COLUMNS, STYLES, SUFFIXES
from actstore.format.given import suffix_of
from actstore.storage import urls

Command = TypeVar("Command", bound=Callable[..., object])


class Place(click.Path):
    """Where a store is: a path, or a URL, which stays a text."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or the URL, checked."""
        return urls.checked(value) if urls.is_url(value) else super().convert(value, param, ctx)


class Folder(Place):
    """Where a store is that is worked on: no URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        return urls.check_folder(super().convert(value, param, ctx))


class Url(Place):
    """Where a store is or will be: a URL."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The URL, checked."""
        if not urls.is_url(value):
            self.fail(f"'{value}' is no URL, such as s3://BUCKET/NAME; a folder is copied by cp -r", param, ctx)
        return super().convert(value, param, ctx)


store_argument = click.argument("store", type=Place())
folder_argument = click.argument("store", type=Folder())


class OutputPath(click.Path):
    """A file or folder to be written; one inside a store is refused before anything is computed for it."""

    def __init__(self, *, file_okay: bool = True, dir_okay: bool = False) -> None:
        super().__init__(path_type=Path, file_okay=file_okay, dir_okay=dir_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, checked."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        outputs.check(path)
        return path


class Number(click.FloatRange):
    """A number that can be counted with: finite, and of `min` at least."""

    def __init__(self, min: float | None = None, max: float | None = None) -> None:  # noqa: A002  (as click has it)
        super().__init__(min=min, max=max)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, checked."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"'{value}' is no finite number", param, ctx)
        return number


DIGITS = 6  # more than any layer or dimension has
COUNT = click.IntRange(1, 2**31 - 1)
SEED = click.IntRange(0, 2**63 - 1)


def names(_context: click.Context, _option: click.Parameter, text: str | None) -> list[str] | None:
    """`eoi,last` as a list."""
    if text is None:
        return None
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise click.BadParameter(f"'{text}' names nothing; leave the option away for what is usual")
    return found


def numbers(
    what: str, *, from_last: bool = False
) -> Callable[[click.Context, click.Parameter, str | None], list[int] | None]:
    """A callback that reads `0,4..6` as [0, 4, 5, 6]; `what` a number is, in words.

    from_last: -1 is the last of them, and may be asked for.
    """

    def parse(context: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
        found: list[int] = []
        for piece in names(context, option, text) or []:
            first, dots, last = piece.partition("..")
            last = last if dots else first
            below = [from_last and one.startswith("-") for one in (first, last)]
            if not (_is_number(first[below[0] :]) and _is_number(last[below[1] :])):
                raise click.BadParameter(f"'{piece}' is no {what}; for example: 0,4,8 or 0..8")
            if below[0] != below[1]:
                raise click.BadParameter(f"'{piece}' counts from both ends; one of them, such as 0..8 or -3..-1")
            if int(last) < int(first):
                raise click.BadParameter(f"'{piece}' goes down; the other way round: {last}..{first}")
            found += range(int(first), int(last) + 1)
        return None if text is None else found

    return parse


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < DIGITS


def output_options(command: Command) -> Command:
    """--format, --columns and --output of everything that prints a table; `render` finds --columns in the context."""
    style = click.option(
        "--format",
        "style",
        type=click.Choice(STYLES),
        is_eager=True,  # it says what --output is
        help="How to print it: a table on a terminal, else JSON lines.",
    )
    output = click.option("-o", "--output", type=OutputPath(), callback=_a_table, help="Write to this file.")
    columns = click.option(
        "--columns", metavar="NAME,...", callback=_chosen, expose_value=False, help="Which columns, in this order."
    )
    return style(columns(output(command)))


def _a_table(context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """The file; BadParameter for a suffix of something else than a table, before one is computed for it."""
    if path is not None and context.params["style"] is None and suffix_of(path) not in {"", *SUFFIXES}:
        raise click.BadParameter(f"'{path}': a table is one of {', '.join(sorted(SUFFIXES))}, or what --format says")
    return path


def _chosen(context: click.Context, _option: click.Parameter, text: str | None) -> None:
    if text is not None:
        context.meta[COLUMNS] = [name.strip() for name in text.split(",") if name.strip()]
