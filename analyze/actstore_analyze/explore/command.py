"""Commands that show a store: one of its samples."""

from pathlib import Path

import click

from actstore.commands.options import OutputPath, store_argument
from actstore_analyze.commands import say


@click.command()
@store_argument
@click.argument("sample")
@click.option("--condition", default="none", show_default=True, help="As it was run under this intervention.")
@click.option("-o", "--output", type=OutputPath(), help="Write .html, .png or .svg instead.")
def show(store: Path, sample: str, condition: str, output: Path | None) -> None:
    """Show one sample: its picture, where the text looks in it, its tokens, what was said, the logit lens.

    What the store does not keep is said in its place, with the key of a recipe that keeps it.

    \b
    Example:
      actstore show demo/fusion digit-0005
      actstore show demo/fusion digit-0005 -o digit.html
    """
    from actstore.store import open as open_store
    from actstore_analyze.explore.sample import sample as sample_of

    found = sample_of(open_store(store), sample, condition)
    if output is not None:
        found.save(output)
        say(f"{output}: {output.stat().st_size / 1e3:.0f} kB")
        return
    from actstore_analyze.explore.terminal import printed

    click.echo(printed(found), nl=False)
