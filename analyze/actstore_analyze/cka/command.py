"""actstore cka: which layer is like which."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import Place
from actstore_analyze.commands import drawn, interval, layers, measured, on_device, roles, show


@click.command()
@measured
@roles("eoi, last-image, image-mean if stored")
@click.option("--with-store", metavar="STORE", type=Place(), help="Compare with another store.")
@click.option("--with-role", metavar="ROLE", help="Compare with another role.")
@click.option("--with-condition", metavar="NAME", help="Compare with another condition.")
@click.option(
    "--with-layers", callback=layers, metavar="LAYER,...", help="Layers of the other side; without it all that it has."
)
@click.option("--unbiased", is_flag=True, help="Not larger for having few samples and many dimensions.")
@interval
@on_device
@drawn("the draw")
def cka(store: Path | str, **asked: Any) -> None:
    """Linear CKA of every layer with every layer: which layer of that model is like which of this.

    1 where the vectors of two layers are the same up to rotation and scale. Each role is compared with itself, or, with
    any of --with-store, -role, -condition, with its counterpart there. Samples are matched by sample_id; models may be
    of any width and number of layers. Few samples in many dimensions look alike: see --unbiased.

    \b
    Example:
      actstore cka demo/fusion --roles eoi,last --figure cka.png
      actstore cka demo/fusion --roles last --with-store demo/gated --unbiased
      actstore cka demo/fusion "from rows where split = 'test'" --roles last-image --with-role eoi --layers 1..6
    """
    from actstore_analyze.cka import figure, study

    show(store, study.Cka, figure.cka, **asked)
