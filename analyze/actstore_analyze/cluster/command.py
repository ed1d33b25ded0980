"""actstore cluster: clusters, and whether each holds one label only."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import COUNT, SEED, Number
from actstore_analyze.commands import (
    beside,
    both_sides,
    interval,
    measured,
    metric,
    neighborly,
    on_device,
    prepared,
    referenced,
    roles,
    show,
)


@click.command()
@measured
@roles("text and image vectors together (--text, --image)")
@click.option(
    "--label", metavar="COLUMN", help="What clusters should agree with  [default: modality; with --roles: label]"
)
@both_sides
@click.option(
    "--method",
    default="adp",
    show_default=True,
    type=click.Choice(["adp", "hdbscan"]),
    help="Advanced Density Peaks or HDBSCAN.",
)
@click.option("-k", default=15, show_default=True, type=COUNT, help="Neighbours of a density.")
@click.option(
    "-z", default=1.2, show_default=True, type=Number(), help="Confidence at which two density peaks are two clusters."
)
@click.option(
    "--min-size", default=50, show_default=True, type=click.IntRange(min=2), help="Smaller clusters are not scored."
)
@metric("normalised")
@click.option("--halo", is_flag=True, help="Leave out points less dense than their cluster's highest border.")
@interval
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of the draw.")
@referenced
@beside
@neighborly
@on_device
@prepared
def cluster(store: Path | str, **asked: Any) -> None:
    """Clusters of vectors by layer, and their homogeneity: whether each holds one label only.

    Without --roles, text and image vectors are clustered together, as in The Narrow Gate, and the label is their
    modality. The table has the homogeneity with small clusters left out, and of all clusters (homogeneity_all).

    \b
    Example:
      actstore cluster runs/both --figure cluster.png
      actstore cluster demo/fusion --roles eoi,last-image --label label --method hdbscan --min-size 20
    """
    from actstore_analyze.cluster import figure, study

    show(store, study.Cluster, figure.cluster, panel=figure.together, **asked)
