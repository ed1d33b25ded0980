"""actstore attention: where in the image the text looks."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import Number
from actstore_analyze.commands import (
    interval,
    measured,
    names,
    referenced,
    show,
    subtracted,
)


@click.command()
@measured
@click.option(
    "--names",
    callback=names,
    metavar="ROLE,...",
    help="Set these apart, several positions of one as one band  [default: those of The Narrow Gate for the model]",
)
@click.option(
    "--threshold",
    type=Number(0, 1),
    help="Share, averaged over layers, above which a position stands alone  [default: 0.01, or 2/n if that is more]",
)
@click.option("--keep-boi", is_flag=True, help="Keep the token that begins the image, as the paper's formula does.")
@click.option("--keep-initial", is_flag=True, help="Keep the tokens before the image, which draw attention anyway.")
@click.option("--picture", type=click.IntRange(min=1), help="Which picture, of samples that have several.")
@interval
@subtracted
@referenced
def attention(store: Path | str, minus_store: Path | str | None, **asked: Any) -> None:
    """Cross-modal attention: which image positions the text attends to, by layer.

    Shares sum to 1 in every layer. What --names says (eoi, last-image, first-image, eol, at-P, or a role that is
    stored) and the strongest six positions above --threshold are set apart; the others are the internal image. Of n
    positions with an even spread each draws 1/n, so that in short images it takes 2/n to stand alone. Without --names
    these are at-32, last-image, eoi for Chameleon-7B, first-image, last-image, eoi for Chameleon-34B, eol, at-1025, eoi
    for Pixtral, last-image, eoi for other models. It needs attention mass in the store (in a recipe: [capture] mass =
    true): columns of [capture] attention do not say what the rest of the image draws. SQL chooses rows, whose samples
    are taken.

    \b
    Example:
      actstore attention runs/mine --figure attention.png
      actstore attention runs/mine "from rows where split = 'test'" --layers 0..8 --threshold 0.05
      actstore attention runs/mine --names eol,at-1025,eoi
      actstore attention runs/mine --minus-store runs/tuned
    """
    from actstore_analyze.attention import figure, study

    if minus_store is not None:
        from actstore_analyze.attention.minus import AttentionMinus
        from actstore_analyze.charts.difference import difference

        show(store, AttentionMinus, difference, minus_store=minus_store, **asked)
        return
    show(store, study.CrossModal, figure.attention, **asked)
