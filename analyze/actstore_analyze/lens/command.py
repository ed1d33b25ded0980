"""actstore lens: what vectors of middle layers say."""

from pathlib import Path
from typing import Any

import click

from actstore_analyze.commands import (
    drawn,
    interval,
    measured,
    roles,
    show,
    subtracted,
)


@click.command()
@measured
@roles("eoi, last-image, image-mean, last if stored")
@click.option(
    "--label", metavar="COLUMN", help="Column of the right answers, of SQL or of the view rows  [default: label if any]"
)
@interval
@subtracted
@drawn("the draw")
def lens(store: Path | str, minus_store: Path | str | None, **asked: Any) -> None:
    """Logit lens: what the model would say if its stream ended at each role's vectors, by layer.

    The model's final norm and unembedding on the stored vectors: the probability and the rank of the right answer's
    token, the entropy, and how far the last layer's distribution is. It needs them in the store, as actstore extract
    digits-fusion demo/lens --set capture.lens=true keeps them; [capture] answers says which words stand for labels.
    Early layers are read with what was made for the last.

    \b
    Example:
      actstore lens demo/lens --roles eoi,last --figure lens.png
      actstore lens demo/lens "from rows where split = 'test'" --roles last --layers 4..6
      actstore lens demo/lens --roles last --minus-store demo/trained
    """
    from actstore_analyze.lens import figure, study

    if minus_store is not None:
        from actstore_analyze.charts.difference import difference
        from actstore_analyze.lens.minus import LensMinus

        show(store, LensMinus, difference, minus_store=minus_store, **asked)
        return
    show(store, study.LogitLens, figure.lens, **asked)
