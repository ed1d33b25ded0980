"""Commands: overlap, and what gathers the results of all measures."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import output_options, store_argument
from actstore_analyze.commands import measured, prepared, referenced, roles, say, show

WITH = ("with_role", "with_layer", "with_condition", "with_store")


@click.command()
@measured
@roles("eoi, last-image, image-mean if stored")
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
@click.option(
    "--positions", type=click.IntRange(min=1), help="Of a role with many positions (image), draw only so many."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the draw.")
@click.option("--with-role", metavar="ROLE", help="Data overlap instead, with another role.")
@click.option("--with-layer", metavar="LAYER", type=click.IntRange(min=0), help="Data overlap, with one layer.")
@click.option("--with-condition", metavar="NAME", help="Data overlap, with another condition.")
@click.option(
    "--with-store", metavar="STORE", type=click.Path(path_type=Path), help="Data overlap, with another store."
)
@referenced
@prepared
@click.pass_context
def overlap(context: click.Context, /, store: Path, label: str, weights: str, **asked: Any) -> None:
    """Label overlap: the share of each vector's k nearest neighbours that carry its label, by role and layer.

    With any of --with-role, -layer, -condition, -store, data overlap: the share of the neighbours that are its
    neighbours there too. Samples are matched by sample_id, and no label is needed.

    SQL chooses rows; it gives at least row_id. A role with several positions in a sample (image) is measured at
    each position and averaged. Rows without a label are left out. The table is kept under results/.

    \b
    Example:
      actstore overlap demo/fusion --roles eoi,last-image,image-mean --label label -k 10 --figure overlap.png
      actstore overlap demo/fusion "from rows where split = 'test'" --roles eoi --metric cosine
      actstore overlap demo/fusion --roles eoi,last --with-layer 6
      actstore overlap demo/fusion --roles last-image --with-store demo/gated --with-role eoi
    """
    if all(asked[name] is None for name in WITH):
        show(store, "overlap", label=label, weights=weights, **{n: v for n, v in asked.items() if n not in WITH})
        return
    for name in ("label", "weights"):
        if context.get_parameter_source(name) != click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} is of label overlap; leave it out with --with-...")
    show(store, "data_overlap", **asked)


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
    render(overview.results(open_store(store)).select(columns), style, output)


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...", type=click.Path(path_type=Path))
@click.option("-o", "--output", default="report.html", show_default=True, type=click.Path(path_type=Path))
@click.option("--reference", metavar="MODEL", help="Draw a published curve behind: chameleon-7b or pixtral-12b.")
def report(stores: tuple[Path, ...], output: Path, reference: str | None) -> None:
    """Write one page with the run cards, figures, tables and methods of some stores; it works offline.

    Beside it, in a folder named after it, each figure as PNG, SVG and CSV. It shows the saved results of the stores
    as they are now: run the measures you want in it first. Label overlap is measured where a store has none, and
    knockouts and patches where its samples ran under some.

    \b
    Example:
      actstore report demo/fusion demo/gated -o report.html --reference chameleon-7b
    """
    from actstore.store import open as open_store
    from actstore_analyze.report.page import write

    written = write([open_store(store) for store in stores], output, reference=reference, say=say)
    say(f"{output}: {written.bytes / 1e3:.0f} kB; {len(written.files)} files of its figures in {written.folder}")
