"""Commands that ask what a position looks at and what can be read from it: attention, linear probes, logit lens."""

from pathlib import Path
from typing import Any

import click

from actstore_analyze.commands import measured, names, prepared, referenced, roles, show


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
    type=click.FloatRange(0, 1),
    help="Share, averaged over layers, above which a position stands alone  [default: 0.01, or 2/n if that is more]",
)
@click.option("--keep-initial", is_flag=True, help="Keep the tokens before the image, which draw attention anyway.")
@referenced
def attention(store: Path, **asked: Any) -> None:
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
    """
    show(store, "attention", **asked)


@click.command()
@measured
@roles("eoi, last-image, image-mean if stored")
@click.option("--label", default="label", show_default=True, help="Column of the labels, of SQL or of the view rows.")
@click.option(
    "--split", metavar="COLUMN", help="Which says train or test; without it split if there is one, else folds."
)
@click.option("--folds", type=click.IntRange(min=2), help="Hold every sample out once, by so many folds  [default: 5]")
@click.option("-c", default=1.0, show_default=True, type=click.FloatRange(min=1e-9), help="Inverse of the L2 penalty.")
@click.option(
    "--positions", type=click.IntRange(min=1), help="Of a role with many positions (image), draw only so many."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the folds and of the draw.")
@prepared
def probe(store: Path, **asked: Any) -> None:
    """Linear probe: how well a label can be read from each role's vectors, by layer, on samples held out.

    Logistic regression on standardised dimensions. The interval is 95 % Wilson; chance is the share of the
    commonest label. Rows without a label are left out.

    \b
    Example:
      actstore probe demo/fusion --roles eoi,last-image,image-mean,last --label label --figure probe.png
      actstore probe demo/fusion "from rows where split = 'test'" --roles eoi --folds 5
    """
    show(store, "probe", **asked)


@click.command()
@measured
@roles("eoi, last-image, image-mean, last if stored")
@click.option(
    "--label", metavar="COLUMN", help="Column of the right answers, of SQL or of the view rows  [default: label if any]"
)
@click.option(
    "--positions", type=click.IntRange(min=1), help="Of a role with many positions (image), draw only so many."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the draw.")
def lens(store: Path, **asked: Any) -> None:
    """Logit lens: what the model would say if its stream ended at each role's vectors, by layer.

    The model's final norm and unembedding on the stored vectors: the probability and the rank of the right answer's
    token, the entropy, and how far the last layer's distribution is. It needs them in the store, as actstore extract
    digits-fusion demo/lens --set capture.lens=true keeps them; [capture] answers says which words stand for labels.
    Early layers are read with what was made for the last.

    \b
    Example:
      actstore lens demo/lens --roles eoi,last --figure lens.png
      actstore lens demo/lens "from rows where split = 'test'" --roles last --layers 4..6
    """
    show(store, "lens", **asked)
