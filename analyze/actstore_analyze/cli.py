"""Commands of the measures."""

from pathlib import Path
from typing import Any

import click

from actstore.options import output_options, store_argument


def _say(text: str) -> None:
    click.echo(text, err=True)


def _names(_context: click.Context, _option: click.Parameter, text: str | None) -> list[str] | None:
    """`eoi,last` as a list."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _layers(context: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    """`0,4..6` as [0, 4, 5, 6]."""
    layers: list[int] = []
    for piece in _names(context, option, text) or []:
        first, _, last = piece.partition("..")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise click.BadParameter(f"'{piece}' is no layer; for example: 0,4,8 or 0..8")
        layers += range(int(first), int(last or first) + 1)
    return None if text is None else layers


@click.command()
@store_argument
@click.argument("sql", default="from rows")
@click.option(
    "--roles", callback=_names, metavar="ROLE,...", help="Which; without it eoi, last-image, image-mean if stored."
)
@click.option("--label", default="label", show_default=True, help="Column of the labels, of SQL or of the view rows.")
@click.option("-k", default=30, show_default=True, type=click.IntRange(min=1), help="Neighbours of each point.")
@click.option(
    "--metric", default="euclidean", show_default=True, type=click.Choice(["euclidean", "normalised", "cosine"])
)
@click.option(
    "--weights",
    default="uniform",
    show_default=True,
    type=click.Choice(["uniform", "class"]),
    help="Average over points, as the paper, or over classes, as DADApy.",
)
@click.option("--layers", callback=_layers, metavar="LAYER,...", help="Which, such as 0,4..8; without it all.")
@click.option(
    "--positions", type=click.IntRange(min=1), help="Of a role with many positions (image), draw only so many."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the draw.")
@click.option("--force", is_flag=True, help="Compute it again, though a saved result would answer.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw it, as .png or .svg.")
@output_options
def overlap(
    store: Path, force: bool, figure: Path | None, style: str | None, output: Path | None, **asked: Any
) -> None:
    """Label overlap: the share of each vector's k nearest neighbours that carry its label, by role and layer.

    SQL chooses rows; it gives at least row_id. A role with several positions in a sample (image) is measured at
    each position and averaged. Rows without a label are left out. The table is kept under results/.

    \b
    Example:
      actstore overlap demo/fusion --roles eoi,last-image,image-mean --label label -k 10 --figure overlap.png
      actstore overlap demo/fusion "from rows where split = 'test'" --roles eoi --metric cosine
    """
    from actstore.store import open as open_store
    from actstore.table import render
    from actstore_analyze.curves import Overlap
    from actstore_analyze.recall import answer

    opened = open_store(store)
    found = answer(opened, Overlap.of(opened, **asked), force=force, say=_say)
    render(found.table, style, output)
    if figure is not None:
        from actstore_analyze import figures

        figures.draw(figures.overlap(found.table, title=store.name), figure)
    _say(found.note)


@click.command()
@store_argument
@output_options
def results(store: Path, style: str | None, output: Path | None) -> None:
    """List the saved results: name, measure, when, whether the store still holds what they were computed from.

    \b
    Example:
      actstore results demo/fusion
      actstore query demo/fusion "select name, parameters from results where current"
    """
    from actstore import overview
    from actstore.store import open as open_store
    from actstore.table import render

    columns = ("name", "measure", "created", "current", "parameters")
    render(overview.results(open_store(store)).select(columns), style, output)


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...", type=click.Path(path_type=Path))
@click.option("-o", "--output", default="report.html", show_default=True, type=click.Path(path_type=Path))
@click.option("--reference", metavar="MODEL", help="Draw a published curve behind: chameleon-7b or pixtral-12b.")
def report(stores: tuple[Path, ...], output: Path, reference: str | None) -> None:
    """Write one page with the run cards, figures, tables and methods of some stores; it works offline.

    Beside it, in a folder named after it, each figure as PNG, SVG and CSV. It shows the saved overlap results;
    a store without any is measured first.

    \b
    Example:
      actstore report demo/fusion demo/gated -o report.html --reference chameleon-7b
    """
    from actstore.store import open as open_store
    from actstore_analyze.report import write

    written = write([open_store(store) for store in stores], output, reference=reference, say=_say)
    _say(f"{output}: {written.bytes / 1e3:.0f} kB; {len(written.files)} files of its figures in {written.folder}")
