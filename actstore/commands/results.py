"""actstore results: what measures have left in a store."""

from pathlib import Path

import click

from actstore.commands.opening import open_store
from actstore.commands.options import output_options, store_argument
from actstore.storage.urls import check_folder


@click.command()
@store_argument
@click.option("--remove", multiple=True, metavar="NAME", help="Remove this result, by its name; thumbnails, too.")
@output_options
def results(store: Path | str, remove: tuple[str, ...], style: str | None, output: Path | None) -> None:
    """List the saved results and where they come from: call, commits of the store used, versions of the libraries, and
    the device that computed them.

    current: whether the store still holds what they were computed from. Commits that follow each other are FIRST..LAST.
    With --remove those of these names are removed, and the others listed.

    \b
    Example:
      actstore results demo/fusion
      actstore query demo/fusion "select name, parameters from results where current"
      actstore results demo/fusion --remove overlap_d9b8f30b
    """
    opened = open_store(store)
    from actstore.commands.table import render
    from actstore.format import results as saved
    from actstore.sql import overview

    columns = ("name", "measure", "created", "current", "sql", "parameters", "commits", "versions", "device")
    if remove:
        saved.remove(check_folder(store), remove)
    render(overview.results(opened.results(), opened.state).select(columns), style, output, overview.JSON)
