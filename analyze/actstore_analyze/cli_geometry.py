"""Commands of the measures of shape: modality gap, clusters, intrinsic dimension, outliers."""

from pathlib import Path
from typing import Any

import click

from actstore_analyze.commands import measured, prepared, referenced, roles, show

METRICS = click.Choice(["euclidean", "normalised", "cosine"])
k_option = click.option(
    "-k", default=15, show_default=True, type=click.IntRange(min=1), help="Neighbours of a density."
)


def both_sides(command: Any) -> Any:
    """--text and --image of the commands that set one modality against the other."""
    for name, order in (("image", "text-image"), ("text", "image-text")):
        usual = f"role = 'random-{name}' and prompt_order = '{order}'"
        command = click.option(
            f"--{name}", default=usual, show_default=True, metavar="CONDITION", help=f"Which rows are {name}, in SQL."
        )(command)
    return command


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
@click.option("--absolute", is_flag=True, help="Of |cos| instead.")
@referenced
@prepared
def gap(store: Path, **asked: Any) -> None:
    """Modality gap: quartiles of the cosine between text vectors and image vectors, by layer.

    Unless told otherwise, text tokens come from prompts that begin with the image, image tokens from prompts that
    begin with the text, one of each per sample, so that the store needs both orders. SQL chooses among all rows.

    \b
    Example:
      actstore gap runs/both --figure gap.png
      actstore gap runs/both "from rows where split = 'test'" --text "role = 'last'" --image "role = 'image-mean'"
    """
    show(store, "gap", **asked)


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
@k_option
@click.option("-z", default=1.2, show_default=True, help="Confidence at which two density peaks are two clusters.")
@click.option(
    "--min-size", default=50, show_default=True, type=click.IntRange(min=2), help="Smaller clusters are not scored."
)
@click.option("--metric", default="normalised", show_default=True, type=METRICS)
@click.option("--halo", is_flag=True, help="Leave out points less dense than their cluster's highest border.")
@referenced
@prepared
def cluster(store: Path, **asked: Any) -> None:
    """Clusters of vectors by layer, and their homogeneity: whether each holds one label only.

    Without --roles, text and image vectors are clustered together, as in The Narrow Gate, and the label is their
    modality. The table has the homogeneity with small clusters left out, and of all clusters (homogeneity_all).

    \b
    Example:
      actstore cluster runs/both --figure cluster.png
      actstore cluster demo/fusion --roles eoi,last-image --label label --method hdbscan --min-size 20
    """
    show(store, "cluster", **asked)


@click.command()
@measured
@roles("eoi, last-image, image-mean if stored")
@click.option("--rank", default=16, show_default=True, help="The farther of the two neighbours compared: 2, 4, 8, ...")
@click.option("--metric", default="euclidean", show_default=True, type=METRICS)
@click.option(
    "--positions", type=click.IntRange(min=1), help="Of a role with many positions (image), draw only so many."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the draw.")
@prepared
def dimension(store: Path, **asked: Any) -> None:
    """Intrinsic dimension (Gride) of each role's vectors, by layer.

    It compares the distances of two neighbours, the --rank-th and the one at half that rank. A role with several
    positions in a sample is measured at each position and averaged.

    \b
    Example:
      actstore dimension demo/fusion --roles eoi,last-image,image-mean --figure dimension.png
      actstore dimension demo/fusion "from rows where label = 'seven'" --roles eoi --rank 8
    """
    show(store, "dimension", **asked)


@click.command()
@measured
@roles("all")
@click.option(
    "--times",
    default=10.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="A dimension is massive above so many times the magnitude of the average one.",
)
def outliers(store: Path, **asked: Any) -> None:
    """Norms and massive dimensions of each role's vectors, by layer.

    A few dimensions can own every distance. The column massive_dims is what --drop-dims of the other measures takes.

    \b
    Example:
      actstore outliers demo/fusion --figure outliers.png
      actstore outliers demo/fusion --roles eoi --layers 1..6 --times 5
    """
    show(store, "outliers", **asked)
