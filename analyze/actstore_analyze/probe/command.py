"""actstore probe: what a line reads off vectors."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import Number
from actstore_analyze.commands import (
    drawn,
    interval,
    measured,
    prepared,
    roles,
    show,
    subtracted,
)


@click.command()
@measured
@roles("eoi, last-image, image-mean if stored")
@click.option("--label", default="label", show_default=True, help="Column of the labels, of SQL or of the view rows.")
@click.option(
    "--split", metavar="COLUMN", help="Column that says train or test; without it split if there is one, else folds."
)
@click.option("--folds", type=click.IntRange(min=2), help="Hold every sample out once, by so many folds  [default: 5]")
@click.option("-c", default=1.0, show_default=True, type=Number(min=1e-9), help="Inverse of the L2 penalty.")
@interval
@subtracted
@drawn("the folds and of the draw")
@prepared
def probe(store: Path | str, minus_store: Path | str | None, **asked: Any) -> None:
    """Linear probe: how well a label can be read from each role's vectors, by layer, on samples held out.

    Logistic regression on standardised dimensions. The interval is 95 %, over samples: of this probe where --split
    says what it was fitted on, else of what probes of other samples would give. chance is the share of the commonest
    label. Rows without a label are left out.

    \b
    Example:
      actstore probe demo/fusion --roles eoi,last-image,image-mean,last --label label --figure probe.png
      actstore probe demo/fusion "from rows where split = 'test'" --roles eoi --folds 5
      actstore probe demo/fusion --roles eoi --minus-store demo/gated
    """
    from actstore_analyze.probe import figure, study

    if minus_store is not None:
        from actstore_analyze.charts.difference import difference
        from actstore_analyze.probe.minus import ProbeMinus

        show(store, ProbeMinus, difference, minus_store=minus_store, **asked)
        return
    show(store, study.Probe, figure.probe, **asked)
