"""actstore dimension: intrinsic dimension."""

from pathlib import Path
from typing import Any

import click

from actstore_analyze.commands import (
    drawn,
    interval,
    measured,
    metric,
    neighborly,
    on_device,
    prepared,
    roles,
    show,
)


@click.command()
@measured
@roles("eoi, last-image, image-mean if stored")
@click.option("--rank", default=16, show_default=True, help="The farther of the two neighbours compared: 2, 4, 8, ...")
@metric("euclidean")
@drawn("the draw")
@interval
@neighborly
@on_device
@prepared
def dimension(store: Path | str, **asked: Any) -> None:
    """Intrinsic dimension (Gride) of each role's vectors, by layer.

    It compares the distances of two neighbours, the one of --rank and the one at half that rank. A role with several
    positions in a sample is measured at each position and averaged. The interval is 95 %, of halves of the samples.

    \b
    Example:
      actstore dimension demo/fusion --roles eoi,last-image,image-mean --figure dimension.png
      actstore dimension demo/fusion "from rows where label = 'seven'" --roles eoi --rank 8
    """
    from actstore_analyze.dimension import figure, study

    show(store, study.Dimension, figure.dimension, **asked)
