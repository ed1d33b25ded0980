"""actstore gap: the modality gap."""

from pathlib import Path
from typing import Any

import click

from actstore_analyze.commands import (
    beside,
    both_sides,
    interval,
    measured,
    on_device,
    prepared,
    referenced,
    show,
    subtracted,
)


@click.command()
@measured
@both_sides
@click.option(
    "--pairs",
    default="unmatched",
    show_default=True,
    type=click.Choice(["unmatched", "all", "lower", "matched"]),
    help="unmatched: not of one sample; lower: i > j, as the authors' code.",
)
@click.option("--absolute", is_flag=True, help="Of the absolute cosine instead.")
@interval
@on_device
@subtracted
@referenced
@beside
@prepared
def gap(store: Path | str, minus_store: Path | str | None, **asked: Any) -> None:
    """Modality gap: quartiles of the cosine between text vectors and image vectors, by layer.
    The interval is 95 %, of the median.

    Unless told otherwise, text tokens come from prompts that begin with the image, image tokens from prompts that
    begin with the text, one of each per sample, so that the store needs both orders. SQL chooses among all rows.

    \b
    Example:
      actstore gap runs/both --figure gap.png
      actstore gap runs/chameleon --together runs/pixtral --reference chameleon-7b,pixtral-12b --figure gap.png
      actstore gap runs/both "from rows where split = 'test'" --text "role = 'last'" --image "role = 'image-mean'"
      actstore gap runs/chameleon --minus-store runs/pixtral
    """
    from actstore_analyze.gap import figure, study

    if minus_store is not None:
        from actstore_analyze.charts.difference import difference
        from actstore_analyze.gap.minus import GapMinus

        show(store, GapMinus, difference, minus_store=minus_store, **asked)
        return
    show(store, study.Gap, figure.gap, panel=figure.together, **asked)
