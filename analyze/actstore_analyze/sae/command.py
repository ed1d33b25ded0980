"""Commands of sparse autoencoders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from actstore.commands.options import COUNT, SEED, Number, Place
from actstore_analyze.commands import (
    end_of,
    interval,
    judged,
    measured,
    on_device,
    published,
    referenced,
    roles,
    say,
    show,
    unshared,
)

Command = TypeVar("Command", bound=Callable[..., object])


def autoencoders(command: Command, *, required: bool = True) -> Command:
    """--saes, --sae-id and --hook."""
    shared = (
        click.option(
            "--saes",
            required=required,
            metavar="FOLDER|RELEASE",
            help="A folder with one subfolder per layer, a path with {layer}, a release of sae-lens, or what ships: "
            "digits-mapped, openmoji-mapped.",
        ),
        click.option("--sae-id", metavar="ID", help="Of a release, with {layer}: layer_{layer}/width_16k/canonical."),
        click.option(
            "--hook",
            type=click.Choice(["pre", "post"]),
            help="Number l is of the input (pre) or the output (post) of block l; without it what the files say.",
        ),
    )
    for decorate in reversed(shared):
        command = decorate(command)
    return command


def controlled(of: str) -> Callable[[Command], Command]:
    """--untrained and --seed: `of` what."""
    untrained = click.option(
        "--untrained",
        metavar="STORE",
        type=Place(),
        help="The same samples run with an untrained adapter, a control more: extract them with a copy of the model.",
    )
    seed = click.option("--seed", default=0, show_default=True, type=SEED, help=f"Seed of {of}.")
    return lambda command: untrained(seed(command))


@click.command()
@measured
@autoencoders
@roles("image, and text as far as it is stored")
@click.option(
    "--average",
    default="example",
    show_default=True,
    type=click.Choice(["example", "token"]),
    help="Each sample counts the same, as in the paper's code, or each token.",
)
@click.option("--positions", type=COUNT, metavar="N", help="Of each sample only N vectors, drawn by --seed.")
@click.option("--no-controls", is_flag=True, help="Without rotated and Gaussian vectors: three times as fast.")
@controlled("the draw, of the rotation and of the Gaussian vectors")
@interval
@on_device
@referenced
def sae(store: Path | str, **asked: Any) -> None:
    """Reconstruction by sparse autoencoders: error, sparsity and cosine by role, order of the prompt and layer.

    Every group stands beside its controls: the same vectors rotated at random, and Gaussian vectors of the same mean
    and covariance. A falling curve means little if the controls fall too, and the squared error grows with the length
    of the vectors: read relative_error and fvu beside it.

    An autoencoder trained on resid_post of block l, as Gemma Scope, is of layer l + 1 here (layer 0 is the input of
    block 0). Each is measured where its own configuration says; one of attention, an MLP or a transcoder is refused:
    a store keeps the residual stream. Folders that sae-lens saved, releases (--sae-id), and Gemma Scope's params.npz
    can be read.

    \b
    Example:
      actstore sae demo/mapped --saes digits-mapped --reference clip-gemma-2-2b --figure sae.png
      actstore sae runs/gemma --saes gemma-scope-2b-pt-res-canonical --sae-id "layer_{layer}/width_16k/canonical"
      actstore sae runs/gemma --saes "gemma-scope/layer_{layer}/width_16k/*/params.npz" --roles image
    """
    from actstore_analyze.sae import figure, study

    show(store, study.Rebuilt, figure.rebuilt, **asked)


JUDGED = ("judge", "prompt", "base_url", "images", "controls", "at_once", "tries", "timeout", "price")


@click.command()
@measured
@autoencoders
@roles("image, and text as far as it is stored")
@click.option(
    "--descriptions",
    required=True,
    metavar="FOLDER",
    help="Neuronpedia's exports: a folder with one per layer (v1/gemma-2-2b), numbered as the autoencoders, or a path "
    "with {layer}: v1/gemma-2-2b/{layer}-gemmascope-res-16k.",
)
@click.option("--examples", default=1000, show_default=True, type=COUNT, help="First samples of each group.")
@click.option(
    "--most-images",
    default=0.05,
    show_default=True,
    type=Number(0, 1),
    help="Leave out features active in a larger share of the samples.",
)
@click.option(
    "--most-language",
    default=0.005,
    show_default=True,
    type=Number(0, 1),
    help="Leave out features active on a larger share of language.",
)
@click.option(
    "--text",
    default="alone",
    show_default=True,
    type=click.Choice(["alone", "all"]),
    help="Words of prompts without an image, as in the paper, or of those with one too.",
)
@judged("without it the table of features is all")
@click.option(
    "--images",
    default=".",
    show_default=True,
    metavar="FOLDER",
    help="Folder that the samples' image paths start from.",
)
@click.option(
    "--prompt",
    default="strict",
    show_default=True,
    metavar="strict|any|FILE",
    help="strict: a strong match, as the paper; any: built as its code asks; or a text with {descriptions} in it.",
)
@click.option("--controls", is_flag=True, help="Ask about controls too: another's image, other vectors.")
@controlled("the rotation and of the Gaussian vectors")
@on_device
@referenced
def describe(
    store: Path | str,
    force: bool,
    figure: Path | None,
    style: str | None,
    output: Path | None,
    reference: list[str] | None,
    **asked: Any,
) -> None:
    """What features of sparse autoencoders say of each sample, and how often a judge finds that in its image.

    Of each sample the three strongest features that have a description and are neither common among the samples nor
    in language. With --judge a model sees the image and the descriptions, and says whether any of them matches; the
    share of samples that match is kept with its Wilson interval, with --controls beside the same question about another
    sample's image, and about features of the same vectors rotated, and of Gaussian ones. Of a sample that was asked
    without an image too (the paper's baseline of text alone) the judge sees the image that it was asked with. Answers
    are kept in the store: a second run asks nothing.

    \b
    Example:
      actstore describe runs/gemma --saes saes --descriptions neuronpedia --roles image --format table
      actstore describe runs/gemma --saes saes --descriptions neuronpedia --judge gpt-4o --images coco --estimate
      actstore describe runs/gemma --saes saes --descriptions neuronpedia --judge qwen --base-url http://127.0.0.1:8000/v1
    """
    from actstore.commands.table import render
    from actstore.store import open as open_store
    from actstore_analyze.charts import charts
    from actstore_analyze.sae import figure as sae_figures
    from actstore_analyze.sae.described import Described
    from actstore_analyze.sae.matches import Matched
    from actstore_analyze.study.recall import answer

    unshared(asked["device"], asked["jobs"], asked["executor"])
    opened = open_store(store)
    only_estimate = asked.pop("estimate")
    if asked["judge"] is None and (only_estimate or figure is not None or reference):
        raise click.UsageError("--figure, --reference and --estimate are of the match rate: name a model with --judge")
    if figure is not None:
        charts.check(figure)
    if asked["judge"] is None:
        bare = {name: value for name, value in asked.items() if name not in JUDGED}
        found = answer(opened, Described.of(opened, **bare), force=force, say=say)
    else:
        call = Matched.of(opened, force=force, **asked)
        if only_estimate:
            say(call.estimate(opened, say=say))
            return
        behind = published(call, reference, drawn=figure is not None)
        found = answer(opened, call, force=force, say=say)
        if figure is not None:
            charts.draw(sae_figures.matched(found.table, title=Path(store).name, **behind), figure)
    render(found.table, style, output)
    end_of(found)
