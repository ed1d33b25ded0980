"""actstore report: one page about some stores."""

from pathlib import Path

import click

from actstore.commands.options import OutputPath, Place
from actstore.commands.statuses import Status, end
from actstore_analyze.commands import names, say


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...", type=Place())
@click.option("-o", "--output", default="report.html", show_default=True, type=OutputPath())
@click.option(
    "--reference", metavar="MODEL", help="Draw behind the figures what was published: chameleon-7b, emu3, ..."
)
@click.option(
    "--only",
    metavar="NAME,...",
    callback=names,
    help="Only these measures (overlap, knockout, score, samples, ...) or saved results, by name (actstore results).",
)
@click.option("--title", help="Of the page; without, the names of the models.")
def report(
    stores: tuple[Path | str, ...], output: Path, reference: str | None, only: list[str] | None, title: str | None
) -> None:
    """Write one page with what was found, figures, samples, run cards and methods of some stores; it works offline.

    Beside it, in a folder named after it, each figure as PNG, SVG, PDF and CSV. Samples are shown with their pictures
    where a store keeps some (actstore thumbnails): whoever has the page sees them. It shows the saved results of the
    stores as they are now: run the measures you want in it first. Label overlap is measured where a store has none,
    and knockouts and patches where its samples ran under some.

    \b
    Example:
      actstore report demo/fusion demo/gated -o report.html --reference chameleon-7b
      actstore report demo/fusion --only overlap,samples --title "What a tiny Chameleon sees"
    """
    from actstore.store import open as open_store
    from actstore_analyze.report.page import write

    written = write(
        [open_store(store) for store in stores], output, reference=reference, only=only or (), title=title, say=say
    )
    if written.pictures:
        say(f"{output} holds {written.pictures} pictures of samples; --only leaves them out")
    say(f"{output}: {written.bytes / 1e3:.0f} kB; {len(written.files)} files of its figures in {written.folder}")
    end(Status.DONE if written.saved else Status.NOT_SAVED)
