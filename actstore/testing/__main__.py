"""python -m actstore.testing FOLDER: whether storage, under a folder or at a URL, lets a store keep its promises."""

import sys
from pathlib import Path
from typing import Any

import click
import polars as pl

from actstore.commands.options import Place, output_options
from actstore.commands.table import render
from actstore.errors import ActstoreError
from actstore.progress import bar
from actstore.storage.urls import is_url
from actstore.testing.suite import FAR_TRIALS, TRIALS, promises, promises_at

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False, writable=True)


class Where(Place):
    """A folder that may be written to, or a URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or the URL, checked."""
        try:
            return super().convert(value, param, ctx) if is_url(value) else FOLDER.convert(value, param, ctx)
        except ActstoreError as error:
            self.fail(str(error), param, ctx)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("where", metavar="FOLDER", type=Where())
@click.option("--seconds", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Time for all of it.")
@output_options
def main(where: Path | str, seconds: float, style: str | None, output: Path | None) -> None:
    """Try the promises P1 to P5 in FOLDER, a network share for example, or at a URL; exit status 1 if one is broken.

    \b
    Example:
      python -m actstore.testing /mnt/share --seconds 300
      python -m actstore.testing s3://my-bucket/tries
    """
    with bar(len(FAR_TRIALS if is_url(where) else TRIALS), "trials") as progress:
        try:
            if is_url(where):
                found = promises_at(str(where), seconds=seconds, advance=progress.advance)
            else:
                found = promises(Path(where), seconds=seconds, advance=progress.advance)
        except ActstoreError as error:
            raise click.ClickException(str(error)) from None
    render(pl.DataFrame(found), style, output)
    sys.exit(any(outcome.result == "broken" for outcome in found))


if __name__ == "__main__":
    main(prog_name="python -m actstore.testing")
