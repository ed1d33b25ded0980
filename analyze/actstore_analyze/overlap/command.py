"""actstore overlap: neighbourhood overlap with labels, or with other vectors."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import COUNT, Place
from actstore_analyze.commands import (
    drawn,
    interval,
    measured,
    metric,
    neighborly,
    on_device,
    prepared,
    referenced,
    roles,
    show,
    subtracted,
)

WITH = ("with_role", "with_layer", "with_condition", "with_store")


@click.command()
@measured
@roles("those stored that the Narrow Gate's figure has: eoi, last-image, image-mean, at-P, first-image, eol-mean")
@click.option("--label", default="label", show_default=True, help="Column of the labels, of SQL or of the view rows.")
@click.option("-k", default=30, show_default=True, type=COUNT, help="Neighbours of each point.")
@metric("euclidean")
@click.option(
    "--weights",
    default="uniform",
    show_default=True,
    type=click.Choice(["uniform", "class"]),
    help="Average over points, as the paper, or over classes, as DADApy.",
)
@interval
@drawn("the draw")
@subtracted
@click.option("--with-role", metavar="ROLE", help="Data overlap instead, with another role.")
@click.option("--with-layer", metavar="LAYER", type=int, help="Data overlap, with one layer.")
@click.option("--with-condition", metavar="NAME", help="Data overlap, with another condition.")
@click.option("--with-store", metavar="STORE", type=Place(), help="Data overlap, with another store.")
@referenced
@neighborly
@on_device
@prepared
@click.pass_context
def overlap(
    context: click.Context, /, store: Path | str, label: str, weights: str, minus_store: Path | str | None, **asked: Any
) -> None:
    """Label overlap: the share of each vector's k nearest neighbours that carry its label, by role and layer.

    With any of --with-role, -layer, -condition, -store, data overlap: the share of the neighbours that are its
    neighbours there too. Samples are matched by sample_id, and no label is needed.

    SQL chooses rows; it gives at least row_id. A role with several positions in a sample (image) is measured at
    each position and averaged. Rows without a label are left out. The table is kept under results/.

    Several prompts for one picture give vectors that are identical: the table counts them (copies), --unique measures
    one of each, and with --group COLUMN rows that have one value there are never each other's neighbours.

    \b
    Example:
      actstore overlap demo/fusion --roles eoi,last-image,image-mean --label label -k 10 --figure overlap.png
      actstore overlap demo/fusion "from rows where split = 'test'" --roles eoi --metric cosine
      actstore overlap demo/fusion --roles eoi,last --with-layer 6
      actstore overlap demo/fusion --roles last-image --with-store demo/gated --with-role eoi
      actstore overlap demo/fusion --roles eoi,last --minus-store demo/gated --figure difference.png
    """
    from actstore_analyze.overlap import between, figure, study

    if minus_store is not None:
        from actstore_analyze.charts.difference import difference
        from actstore_analyze.overlap.minus import OverlapMinus

        if any(asked.pop(name) is not None for name in WITH):
            raise click.UsageError("--minus-store is of label overlaps; leave it out with --with-...")
        show(store, OverlapMinus, difference, label=label, weights=weights, minus_store=minus_store, **asked)
        return
    if all(asked[name] is None for name in WITH):
        show(
            store,
            study.Overlap,
            figure.overlap,
            label=label,
            weights=weights,
            **{n: v for n, v in asked.items() if n not in WITH},
        )
        return
    for name in ("label", "weights"):
        if context.get_parameter_source(name) != click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} is of label overlap; leave it out with --with-...")
    show(store, between.DataOverlap, figure.data_overlap, **asked)
