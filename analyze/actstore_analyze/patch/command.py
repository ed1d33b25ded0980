"""The command that patches: it reads patches that samples of a store ran under, or replays others."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import Number
from actstore_analyze.commands import beside, measured, names, of_replays_alone, referenced, replayed, say, show

SOURCES = ("pairs", "source", "vector")
OWN = (
    "sql",
    "layers",
    "jobs",
    "executor",
    "force",
    "figure",
    "reference",
    "together",
    "style",
    "output",
)  # of patches that ran, too


@click.command()
@measured
@click.option("--role", default="eoi", show_default=True, help="Which position of the receivers is patched.")
@click.option("--pairs", callback=names, metavar="SOURCE:RECEIVER,...", help="Classes; the i-th of one into the other.")
@click.option("--by", default="label", show_default=True, help="Column of the classes.")
@click.option("--source", metavar="SQL", help="Rows whose vectors go into every receiver, each in turn.")
@click.option("--mean", is_flag=True, help="Put in the mean of the sources' vectors, class by class.")
@click.option("--minus", metavar="SQL", help="Add the mean of --source less the mean of these rows.")
@click.option(
    "--vector",
    metavar="FILE",
    help="Put in the mean of the vectors of a .npy (n, d), or of a .parquet, layer by layer if it has columns layer_N.",
)
@click.option("--to", metavar="CLASS", help="The class that the vector leads to, for the accuracy.")
@click.option(
    "--add", type=Number(), metavar="FACTOR", help="Add the vectors, so many times, instead of putting them in."
)
@click.option(
    "--point",
    default="residual",
    show_default=True,
    type=click.Choice(["residual", "attention-input"]),
    help="The residual stream at one layer, or what attention reads in a block and all that follow.",
)
@click.option("--word", callback=names, metavar="CLASS=WORD,...", help="Words that stand for classes.")
@click.option(
    "--method", type=click.Choice(["packed", "suffix", "full"]), help="Without it the cheapest that the store allows."
)
@click.option("--estimate", is_flag=True, help="Say what is stored, what is missing and what it would cost.")
@replayed
@referenced
@beside
def patch(store: Path | str, estimate: bool, **asked: Any) -> None:
    """Activation patching, on a CPU: what the model says once vectors of one sample are put into another.

    With --pairs, --source or --vector the patches are replayed from the residual streams in STORE and the decoder's
    weights alone: no images, no vision tower, no GPU. Without them the table is of the patches that the samples ran
    under when they were extracted.

    SQL chooses the receivers' rows (with --pairs, those of both classes). Every sample is replayed as it was, too: that
    is the baseline, and it has to agree with what the model said at extraction. --force also replays with weights or a
    configuration that are not the run card's.

    \b
    Example:
      actstore patch demo/gated-replay --pairs seven:three,one:zero --figure patch.png
      actstore patch demo/gated-replay --pairs seven:three --estimate
      actstore patch demo/gated-replay "from rows where label = 'three'" --limit 5 \\
          --source "from rows where role = 'eoi' and label = 'seven' limit 3"
      actstore patch demo/gated-replay "from rows where label = 'three'" --add 1.5 \\
          --source "from rows where role = 'eoi' and label = 'seven'" \\
          --minus "from rows where role = 'eoi' and label = 'three'"
      actstore patch demo/gated-patch
      actstore patch demo/gated-patch --together demo/fusion-patch --figure together.png
    """
    from actstore_analyze.patch import figure, study
    from actstore_analyze.patch import replayed as replays

    given = {**asked, "pairs": tuple(asked["pairs"] or ()), "word": tuple(asked["word"] or ())}
    if not any(given[name] for name in SOURCES):
        of_replays_alone([*(given.keys() - {*OWN}), "estimate"], "say what is put in, by --pairs, --source or --vector")
        show(store, study.Patched, figure.patched, panel=figure.together, **{name: asked[name] for name in OWN})
        return
    if estimate:
        _estimate(store, **given)
        return
    show(store, replays.Replayed, figure.patched, panel=figure.together, forced=given["force"], **given)


def _estimate(
    store: Path | str,
    *,
    force: bool,
    style: str | None,
    output: Path | None,
    figure: Path | None,
    reference: list[str] | None,
    together: tuple[Path, ...],
    **asked: Any,
) -> None:
    from actstore.commands.table import render
    from actstore.store import open as open_store
    from actstore_analyze.patch.replayed import Replayed

    if figure is not None or reference is not None:
        raise click.UsageError("an estimate has no figure")
    if together:
        raise click.UsageError("an estimate is of one store: leave --together out")
    opened = open_store(store)
    render(Replayed.of(opened, forced=force, **asked).estimate(opened, say=say), style, output)
