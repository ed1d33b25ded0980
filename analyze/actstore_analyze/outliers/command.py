"""actstore outliers: norms and massive dimensions."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import Number
from actstore_analyze.commands import (
    measured,
    roles,
    show,
)


@click.command()
@measured
@roles("all")
@click.option(
    "--times",
    default=10.0,
    show_default=True,
    type=Number(min=1),
    help="A dimension is massive above so many times the magnitude of the average one.",
)
def outliers(store: Path | str, **asked: Any) -> None:
    """Norms and massive dimensions of each role's vectors, by layer.

    A few dimensions can own every distance. The column massive_dims is what --drop-dims of the other measures takes.

    \b
    Example:
      actstore outliers demo/fusion --figure outliers.png
      actstore outliers demo/fusion --roles eoi --layers 1..6 --times 5
    """
    from actstore_analyze.outliers import figure, study

    show(store, study.Outliers, figure.outliers, **asked)
