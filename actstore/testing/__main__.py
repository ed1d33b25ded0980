"""python -m actstore.testing FOLDER: whether the storage under a folder lets a store keep its promises."""

import sys
from pathlib import Path

import click
import polars as pl

from actstore.commands.options import output_options
from actstore.commands.table import render
from actstore.progress import bar
from actstore.testing.suite import TRIALS, promises


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True))
@click.option("--seconds", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Time for all of it.")
@output_options
def main(folder: Path, seconds: float, style: str | None, output: Path | None) -> None:
    """Try the promises P1 to P5 in FOLDER, on a network share for example; exit status 1 if one is broken.

    \b
    Example:
      python -m actstore.testing /mnt/share --seconds 300
    """
    with bar(len(TRIALS), "trials") as progress:
        found = promises(folder, seconds=seconds, advance=progress.advance)
    render(pl.DataFrame(found), style, output)
    sys.exit(any(outcome.result == "broken" for outcome in found))


if __name__ == "__main__":
    main(prog_name="python -m actstore.testing")
