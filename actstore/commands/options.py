"""Options that several commands share, so that they are the same everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from actstore.commands.table import STYLES

Command = TypeVar("Command", bound=Callable[..., object])

store_argument = click.argument("store", type=click.Path(path_type=Path))


def output_options(command: Command) -> Command:
    """--format and --output of everything that prints a table."""
    style = click.option(
        "--format", "style", type=click.Choice(STYLES), help="How to print it: a table on a terminal, else JSON lines."
    )
    output = click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
    return style(output(command))
