"""actstore cache: what reading stores at URLs left on this machine."""

from pathlib import Path

import click

from actstore.commands.options import Number, Url, output_options


@click.command()
@click.argument("url", type=Url(), required=False)
@click.option("--clear", is_flag=True, help="Remove it, after listing it; saved results stay.")
@click.option("--older-than", default=0.0, type=Number(0), help="Only stores that were not opened for so many hours.")
@click.option("--results", is_flag=True, help="With --clear: remove saved results, too, which may be nowhere else.")
@output_options
def cache(
    url: str | None, clear: bool, older_than: float, results: bool, style: str | None, output: Path | None
) -> None:
    """List what reading stores at URLs left in the user's cache folder: of each store, or of the one at URL.

    bytes are those of what is fetched again when it is wanted; hours, since the store was opened.
    With --clear it is removed, but for results that measures saved there: actstore pull brings them into a folder.

    \b
    Example:
      actstore cache
      actstore cache --clear --older-than 720
    """
    import polars as pl

    from actstore.commands.table import render
    from actstore.maintain import cached

    if results and not clear:
        raise click.UsageError("--results says what --clear removes; give both")
    named = [one for one in cached.find() if url is None or one.url == url or one.url.startswith(f"{url}@")]
    found = [one for one in named if one.hours >= older_than]
    rows = [(one.url, one.bytes, one.results, round(one.hours, 1), str(one.folder)) for one in found]
    schema = {"url": pl.String, "bytes": pl.Int64, "results": pl.Int64, "hours": pl.Float64, "folder": pl.String}
    render(pl.DataFrame(rows, schema=schema, orient="row"), style, output)
    if clear:
        for one in found:
            one.clear(results=results)
        kept = sum(one.results for one in found) if not results else 0
        stay = f"; {kept} saved results stay (--results removes them, too)" if kept else ""
        click.echo(f"removed: {sum(one.bytes for one in found) / 1e6:.1f} MB of {len(found)} stores{stay}", err=True)
