"""Commands that train."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.commands.options import COUNT, SEED, Number, OutputPath, folder_argument, numbers, output_options
from actstore.commands.plugins import Group, Shelf
from actstore.errors import visible

if TYPE_CHECKING:
    from actstore_extract.training.log import Row
    from actstore_extract.training.loop import Done


def _say(text: str) -> None:
    """On standard error; under torchrun the first process speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(visible(text, lines=True), err=True)


@click.group(cls=Group)
def train() -> None:
    """Train an adapter between two frozen models, or LoRA in a model that draws, from a recipe; or sparse autoencoders
    of what a store keeps.

    \b
    Example:
      actstore train recipes
      actstore train adapter digits-adapter demo/adapter
      actstore train sae demo/mapped runs/saes --layers 4
    """


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """What both trainings take."""
    for decorate in (
        click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a key."),
        click.option(
            "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU if there is one."
        ),
        click.argument("out", type=OutputPath(file_okay=False, dir_okay=True)),
        click.argument("recipe"),
    ):
        command = decorate(command)
    return command


@train.command()
@_options
def adapter(recipe: str, out: Path, device: str, overrides: tuple[str, ...]) -> None:
    """Train the linear map from a frozen vision tower into a frozen language model; OUT is a model to extract from.

    The same call again goes on from the last checkpoint. OUT gets adapter.safetensors, parts.toml, log.parquet,
    log.png and checkpoint.state. With several GPUs: torchrun --nproc-per-node 8 $(which actstore) train ...

    \b
    Example:
      actstore train adapter digits-adapter demo/adapter
      actstore train adapter clip-gemma-2-2b-pretrain runs/pretrain --set data.llava.path=/data/pretrain.json
      actstore train adapter clip-gemma-2-2b-finetune runs/model --set model.adapter=runs/pretrain
    """
    from actstore_extract.training.recipe import AdapterRecipe, load

    asked = load(recipe, AdapterRecipe, overrides)  # before torch is loaded, which takes seconds
    from actstore_extract.training.program import train_adapter

    _end(train_adapter(asked, out, device=device, say=_say), out)


@train.command()
@_options
@click.option("--merge", is_flag=True, help="Write a whole checkpoint instead of what was learned alone.")
def lora(recipe: str, out: Path, device: str, overrides: tuple[str, ...], merge: bool) -> None:
    """Train LoRA in the decoder of a model, Emu3 for example; OUT is a model to extract from.

    The same call again goes on from the last checkpoint.

    \b
    Example:
      actstore train lora emu3-lora runs/emu3 --set data.vqav2.path=/data/vqa --set data.coco.path=/data/coco
    """
    from actstore_extract.training.recipe import LoraRecipe, load

    asked = load(recipe, LoraRecipe, overrides)  # as above
    from actstore_extract.training.program import train_lora

    _end(train_lora(asked, out, device=device, merge=merge, say=_say), out)


@train.command()
@folder_argument
@click.argument("out", type=OutputPath(file_okay=False, dir_okay=True))
@click.argument("sql", default="from rows where modality = 'text'")
@click.option(
    "--layers",
    callback=numbers("layer", from_last=True),
    metavar="LAYER,...",
    help="Layers, such as 0,4..8; without it all that are stored.",
)
@click.option("--features", default=1024, show_default=True, type=COUNT, help="Of each autoencoder.")
@click.option("-k", default=64, show_default=True, type=COUNT, help="Features active in a vector, on average.")
@click.option("--steps", default=600, show_default=True, type=COUNT, help="Batches to learn from.")
@click.option("--batch-size", default=1024, show_default=True, type=COUNT, help="Vectors in a batch.")
@click.option("--learning-rate", default=2e-3, show_default=True, type=Number(0), help="Adam's, at its highest.")
@click.option("--held-out", default=0.05, show_default=True, type=Number(0, 1), help="Share of samples for the scores.")
@click.option("--no-loss", is_flag=True, help="Without the model: no cross-entropy among the scores.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of the split, the draws and the first weights.")
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU if there is one."
)
@output_options
def sae(
    store: Path,
    out: Path,
    sql: str,
    layers: list[int] | None,
    held_out: float,
    no_loss: bool,
    device: str,
    style: str | None,
    output: Path | None,
    **how: Any,
) -> None:
    """Train a sparse autoencoder for each layer from the vectors of STORE, with sae-lens, and score it on samples that
    it never saw: BatchTopK in training, a JumpReLU in OUT/layer_L, which actstore sae --saes OUT reads.

    SQL selects the rows to learn from, text without it. Every dimension is brought to mean 0 and variance 1, so that
    massive ones do not outweigh the others; both then go into the weights. The scores: active features (l0), features
    active on no vector that was learned from (dead), squared error over variance with and without massive dimensions
    (10 times the average magnitude), and the cross-entropy of the next token that is recovered, of what is lost with
    zeros in place of the vectors, and with their mean. The same call again goes on with the layers that are missing.

    \b
    Example:
      actstore train sae demo/mapped runs/saes --layers 4 --features 512 -k 16
      actstore train sae runs/dictionary runs/saes --format table
      actstore sae runs/openmoji --saes runs/saes
    """
    from actstore.commands.table import render
    from actstore.store import open as open_store
    from actstore_extract.training.saes import Settings, train_saes

    settings = Settings(**how)
    if settings.k > settings.features:
        raise click.UsageError(f"-k {settings.k} of {settings.features} features")
    opened = open_store(store)
    found = train_saes(
        opened, out, settings, sql=sql, layers=layers, held_out=held_out, loss=not no_loss, device=device, say=_say
    )
    render(found, style, output)


@train.group(cls=Shelf, invoke_without_command=True)
@output_options
@click.pass_context
def recipes(context: click.Context, style: str | None, output: Path | None) -> None:
    """List the recipes that ship, and what each needs.

    gpu_gb is rough: 10^9 bytes on each GPU, by arithmetic from the published models; a smaller training.micro_batch
    needs less and learns the same, up to rounding.

    \b
    Example:
      actstore train recipes
      actstore train recipes show clip-gemma-2-2b-pretrain > mine.toml
    """
    if context.invoked_subcommand is not None:
        return
    import polars as pl

    from actstore.commands.table import render
    from actstore_extract.training import needs
    from actstore_extract.training.recipe import TrainingRecipe, load, shipped

    found = [load(one, TrainingRecipe) for one in shipped()]
    table = {
        "name": [one.name for one in found],
        "kind": [one.kind for one in found],
        "weights": [needs.weights(one) for one in found],
        "data": [needs.data(one) for one in found],
        "gpu_gb": [known and round(known, 1) for known in map(needs.gpu_gb, found)],
        "about": [one.about for one in found],
    }
    render(pl.DataFrame(table), style, output)


@recipes.command()
@click.argument("name", metavar="RECIPE")
def show(name: str) -> None:
    """Print a recipe that ships, to be copied and edited.

    \b
    Example:
      actstore train recipes show clip-gemma-2-2b-pretrain > mine.toml
    """
    from actstore.errors import ActstoreError, nearest
    from actstore_extract.training.recipe import LISTED_BY, shipped

    if name not in shipped():
        raise ActstoreError(f"no training recipe '{name}' ships{nearest(name, list(shipped()), f'see {LISTED_BY}')}")
    click.echo(shipped()[name].text, nl=False)


def _end(done: "Done", out: Path) -> None:
    if not done.finished:
        _say(f"\n{out}: stopped; {done.step} of {done.steps} steps are kept; the same command goes on")
        raise KeyboardInterrupt
    _say(f"{out}: {done.steps} steps, {_losses(done.log)}")
    for what, count in (
        ("longer than max_length and cut at their end", sum(row.cut for row in done.log)),
        ("left without an answer by that", sum(row.empty for row in done.log)),
        ("unusable and left out", sum(row.bad for row in done.log)),
    ):
        if count:
            _say(f"{count} of {sum(row.examples + row.empty + row.bad for row in done.log)} examples were {what}")


def _losses(log: "list[Row]") -> str:
    """Where the loss began and ended, each the mean of a twentieth of the steps."""
    losses = [row.loss for row in log if row.loss is not None]
    n = max(1, len(losses) // 20)
    if not losses:
        return "none of which had anything to learn"
    return f"loss {sum(losses[:n]) / n:.3f} at the beginning, {sum(losses[-n:]) / n:.3f} at the end"
