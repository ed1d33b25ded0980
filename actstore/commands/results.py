"""actstore results: what measures have left in a store."""

from pathlib import Path

import click

from actstore.commands.options import output_options, store_argument


@click.command()
@store_argument
@output_options
def results(store: Path, style: str | None, output: Path | None) -> None:
    """List the saved results and where they come from: call, commits of the store used, versions of the libraries.

    current: whether the store still holds what they were computed from. Commits that follow each other are FIRST..LAST.

    \b
    Example:
      actstore results demo/fusion
      actstore query demo/fusion "select name, parameters from results where current"
    """
    from actstore.commands.table import render
    from actstore.sql import overview
    from actstore.store import open as open_store

    columns = ("name", "measure", "created", "current", "sql", "parameters", "commits", "versions")
    opened = open_store(store)
    render(overview.results(opened.results(), opened.state).select(columns), style, output, overview.JSON)
