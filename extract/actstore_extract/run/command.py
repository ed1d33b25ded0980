"""Commands of the model side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands.options import COUNT, folder_argument, output_options, store_argument
from actstore.commands.plugins import Shelf
from actstore.commands.statuses import Status, end
from actstore.errors import visible
from actstore.progress import duration
from actstore.storage.urls import is_url

if TYPE_CHECKING:
    from actstore_extract.recipe.recipe import Recipe
    from actstore_extract.run.estimate import Estimate
    from actstore_extract.run.ranks import Share


def _say(text: str) -> None:
    click.echo(visible(text, lines=True), err=True)


@click.command()
@click.argument("recipe")
@store_argument
@click.option("--estimate", is_flag=True, help="Print rows, bytes and time, measured on some samples; write nothing.")
@click.option(
    "--arithmetic",
    is_flag=True,
    help="Say what it needs, roughly, by the model's configuration alone: neither weights nor data have to be there.",
)
@click.option("--limit", type=COUNT, help="Only the first N samples.")
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU if there is one."
)
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Number type the model runs in.")
@click.option("--batch-size", type=COUNT, help="Samples in one forward.")
@click.option(
    "--share",
    metavar="K/N",
    help="The K-th of N shares, counted from 1; without it the place under torchrun, MPI or Slurm (steps, job arrays).",
)
@click.option(
    "--devices",
    type=COUNT,
    metavar="N",
    help="N processes on this machine, each with a GPU of its own (or, with --device cpu, its part of the CPU).",
)
@click.option("--no-check", is_flag=True, help="Without the self-check of the model (check = false in the recipe).")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a key of the recipe.")
def extract(
    recipe: str,
    store: Path | str,
    estimate: bool,
    arithmetic: bool,
    limit: int | None,
    device: str,
    dtype: str | None,
    batch_size: int | None,
    share: str | None,
    devices: int | None,
    no_check: bool,
    overrides: tuple[str, ...],
) -> None:
    """Run a recipe's model over its samples and keep what it says in STORE; the same call again goes on.

    STORE is a folder, or a URL of object storage: s3://, gs://, az://.
    RECIPE is a file or the name of one that ships (actstore recipes).

    \b
    Example:
      actstore extract digits-fusion demo/fusion
      actstore extract digits-fusion demo/fusion --estimate
      actstore extract chameleon-7b/vqa runs/vqa --arithmetic --set capture.max_new_tokens=40
      actstore extract digits-fusion demo/cut --set 'conditions=["eoi-knockout"]'
      actstore extract my-recipe.toml runs/mine --device cuda --set samples.path=/data/imagenet
      actstore extract my-recipe.toml runs/mine --share 3/16
      actstore extract my-recipe.toml runs/mine --devices 4
    """
    from actstore_extract.recipe.recipe import load

    options = {"samples.limit": limit, "model.dtype": dtype, "check": "false" if no_check else None}
    changes = [*overrides, *(f"{key}={value}" for key, value in options.items() if value is not None)]
    asked = load(recipe, changes)  # before torch is loaded, which takes seconds
    if arithmetic:
        _print_arithmetic(asked, batch_size)
        return
    if devices is not None and devices > 1 and not estimate:
        words = [f"--batch-size={batch_size}"] if batch_size else []
        _on_devices(devices, asked, store, [recipe, str(store), *words, *_set(changes)], device, share)
        return
    from actstore_extract.run.estimate import estimate as estimate_of
    from actstore_extract.run.ranks import share_of
    from actstore_extract.run.runner import Run

    run = Run(asked, device=device, batch_size=batch_size, share=share_of(share), say=_say)
    if estimate:
        _print_estimate(estimate_of(run))
        return
    with _interruptible(store):
        done = run.extract(store)
    if done.samples:
        rate = done.samples / max(done.seconds, 1e-9)
        _say(
            f"{store}: {done.samples} samples ({done.failed} failed) in {done.parts} parts, {done.bytes / 1e6:.1f} MB, "
            f"{done.seconds:.1f} s, {rate:.0f} samples/s"
        )
    if done.left:
        _say(f"{store}: {done.left} parts are being written by other processes; the same command says how far they are")
    _end_in_part(run.share, failed=done.failed > 0, left=done.left > 0)


def _end_in_part(share: "Share", *, failed: bool, left: bool) -> None:
    """End as a run of which samples failed, or others hold the rest, which is no matter to one of several shares.

    One of several processes that were started together ends by no status: torchrun, mpirun and srun -K would end the
    others, at work.
    """
    in_part = (failed and not share.together) or (left and share.of == 1)
    end(Status.IN_PART if in_part else Status.DONE)


def _set(changes: Sequence[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def _on_devices(
    n: int, asked: "Recipe", store: Path | str, words: Sequence[str], device: str, share: str | None
) -> None:
    """Run the command with these words on each of `n` devices, and end as one of them that did it all would."""
    import torch

    from actstore_extract.run.devices import assigned, run
    from actstore_extract.run.ranks import check_alone, share_of

    check_alone(n, asked.model.device_map)
    own = share_of(share)
    ranks = assigned(n, own, device, torch.cuda.device_count())
    failed = _failed(store)
    with _interruptible(store):
        statuses = run(ranks, ["extract", *words], _say)
    died = [f"{rank.share.number} ({status})" for rank, status in zip(ranks, statuses, strict=True) if status < 0]
    if died:
        _say(f"{store}: ended by signals: share {', '.join(died)}; the others have taken what they left")
    done = _is_done(store)
    worst = Status(max((status for status in statuses if status in {*Status}), default=Status.IN_PART))
    if done or (worst in (Status.DONE, Status.IN_PART) and not died):
        _end_in_part(own, failed=_failed(store) > failed, left=not done)
    else:
        end(worst or Status.IN_PART)


def _is_done(store: Path | str) -> bool:
    from actstore_extract.run.places import place

    where = place(store)
    return where.is_there and not where.open().remaining


def _failed(store: Path | str) -> int:
    """Samples of a store that failed; none where there is no store yet."""
    from actstore_extract.run.places import place

    where = place(store)
    if not where.is_there:
        return 0
    return int(where.open().sql("select count(*) from samples where status = 'failed'").item())


@contextmanager
def _interruptible(store: Path | str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end a run between batches; what to do next is said."""
    try:
        yield
    except KeyboardInterrupt:
        from actstore_extract.run.places import place

        where = place(store)
        if where.is_there:
            opened = where.open()
            done = sum(commit.samples for commit in opened.commits)
            _say(f"\n{store}: stopped; {done} of {opened.plan.height} samples are kept; the same command goes on")
        raise


def _print_arithmetic(recipe: "Recipe", batch_size: int | None) -> None:
    import polars as pl

    from actstore.commands.table import render
    from actstore_extract.run.arithmetic import arithmetic

    if batch_size is not None:
        capture = recipe.capture.model_copy(update={"batch_size": batch_size})
        recipe = recipe.model_copy(update={"capture": capture})
    facts, found = arithmetic(recipe)
    row = {"samples": found.samples, "gpu_gb": round(found.gpu_gb, 3), "store_gb": round(found.store_gb, 3)}
    sizes = {name: value for name, value in facts._asdict().items() if name != "samples"}
    render(pl.DataFrame([{**row, **sizes}]))
    _say("10^9 bytes, roughly: weights, a batch and its keys and values; the store before compression")


def _print_estimate(estimate: "Estimate") -> None:
    import polars as pl

    from actstore.commands.table import render

    table = {
        "kept": [*estimate.rows, "all"],
        "n": [*estimate.rows.values(), sum(estimate.rows.values())],
        "MB": [round(size / 1e6, 2) for size in (*estimate.bytes.values(), sum(estimate.bytes.values()))],
    }
    render(pl.DataFrame(table))
    if estimate.per_head:
        _say(f"attention columns with per_head = true: {estimate.per_head / 1e6:.2f} MB")
    _say(
        f"{estimate.samples} samples; about {duration(estimate.seconds)}, measured on {estimate.measured_on} of them; "
        "MB before compression"
    )


@click.command()
@folder_argument
@click.argument("recipe", required=False)
@click.option("--pixels", type=click.IntRange(1, 1024), default=96, show_default=True, help="Wide and high, at most.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a key of the recipe.")
def thumbnails(store: Path, recipe: str | None, pixels: int, overrides: tuple[str, ...]) -> None:
    """Keep small pictures of the samples in STORE, for pages that show them; whoever has the store sees them then.

    RECIPE says where the pictures are: a file or one that ships; without, the one that made the store. Its samples have
    to be those of the store. About 2 kB a picture. `capture.thumbnails = 96` in a recipe does it at the end of a run;
    `actstore results STORE --remove` takes them out again.

    \b
    Example:
      actstore thumbnails demo/fusion
      actstore thumbnails runs/mine my-recipe.toml --set samples.path=/data/imagenet
    """
    from actstore.errors import ActstoreError
    from actstore.store import open as open_store
    from actstore_extract.recipe.recipe import load, recorded

    opened = open_store(store)
    card = opened.run.get("recipe")
    if recipe is not None:
        made_by = load(recipe, overrides)
    elif isinstance(card, dict):
        made_by = recorded(card, f"{store}: its run card", overrides)
    else:
        raise ActstoreError(f"{store} has no recipe in its run card: name the recipe that its pictures are of")
    from actstore_extract.run.thumbnails import keep_of  # loads torch, which takes seconds

    kept = keep_of(opened, made_by, pixels, _say)
    if kept is None:
        raise ActstoreError(f"{store}: its plan names no pictures")
    _say(f"{store}: {kept.name} holds its pictures, {kept.path.stat().st_size / 1e6:.1f} MB")


@click.group(cls=Shelf, invoke_without_command=True)
@output_options
@click.pass_context
def recipes(context: click.Context, style: str | None, output: Path | None) -> None:
    """List the recipes that ship with the package, and what each needs.

    extra: of the package, beside actstore[extract]; vision brings torchvision. gpu_gb and store_gb are rough: 10^9
    bytes, by arithmetic from the published model; the store before compression.

    \b
    Example:
      actstore recipes
      actstore recipes show chameleon-7b/overlap > my-recipe.toml
      actstore recipes show demo/fusion
      actstore recipes keys capture
    """
    if context.invoked_subcommand is not None:
        return
    import polars as pl

    from actstore.commands.table import render
    from actstore_extract.recipe.needs import needs
    from actstore_extract.recipe.recipe import load
    from actstore_extract.recipe.shelf import shipped

    found = [(load(name), needs(load(name))) for name in shipped()]
    table = {
        "name": [one.name for one, _ in found],
        "weights": [one.model.path for one, _ in found],
        "data": [one.samples.source for one, _ in found],
        "extra": [shipped()[one.name].extra for one, _ in found],
        "samples": [known and known.samples for _, known in found],
        "gpu_gb": [known and round(known.gpu_gb, 1) for _, known in found],
        "store_gb": [known and round(known.store_gb, 1) for _, known in found],
        "about": [one.about for one, _ in found],
    }
    render(pl.DataFrame(table), style, output)


@click.command()
@click.argument("where", metavar="[STORE|RECIPE]", required=False)
@output_options
def roles(where: str | None, style: str | None, output: Path | None) -> None:
    """List the roles: which token of a prompt each name means, drawn for a made-up prompt.

    Of a STORE, what its roles are in the first sample that has them; of a RECIPE (its model is loaded), what all roles
    are in its first sample. Positions count from 0.

    \b
    Example:
      actstore roles
      actstore roles demo/fusion
      actstore roles digits-fusion
    """
    from actstore.commands.table import render, resolve
    from actstore_extract import legend

    if where is None:
        if resolve(style, output) == "table":
            click.echo(f"{legend.prompt()}\n")
        render(legend.example(), style, output)
    elif is_url(where) or Path(where).is_dir():
        from actstore.store import open as open_store

        render(legend.of_store(open_store(where)), style, output)
    else:
        from actstore_extract.recipe.recipe import load

        recipe = load(where, [])  # before torch is loaded, which takes seconds
        from actstore_extract.run.legend import of_recipe

        render(of_recipe(recipe), style, output)


@recipes.command()
@click.argument("name", metavar="RECIPE|STORE")
def show(name: str) -> None:
    """Print a recipe that ships, or the one a store was made by, to be copied and edited.

    \b
    Example:
      actstore recipes show chameleon-7b/overlap > my-recipe.toml
      actstore recipes show demo/fusion > fusion.toml
    """
    from actstore.errors import ActstoreError, nearest
    from actstore_extract.recipe.shelf import shipped

    if name in shipped():
        click.echo(shipped()[name].text, nl=False)
    elif is_url(name) or Path(name).is_dir():
        click.echo(_recipe_of(name), nl=False)
    else:
        hint = nearest(name, list(shipped()), "see actstore recipes; for trainings, actstore train recipes")
        raise ActstoreError(f"'{name}' is no store, and no recipe of that name ships{hint}")


@recipes.command()
@click.argument("word", required=False)
@output_options
def keys(word: str | None, style: str | None, output: Path | None) -> None:
    """List the keys that a recipe may have: what each means, what it is without, an example.

    WORD is a section (model, samples, prompt, capture, conditions), a source of samples or a key; without it all are
    listed. A key whose default is "needed" has to be there.

    \b
    Example:
      actstore recipes keys
      actstore recipes keys capture
      actstore recipes keys imagefolder
      actstore recipes keys answers
    """
    import re

    import polars as pl

    from actstore.commands.table import render
    from actstore.errors import ActstoreError, nearest
    from actstore_extract.recipe.keys import Key
    from actstore_extract.recipe.keys import keys as known

    every = list(known())
    found = [key for key in every if word is None or word in (key.key, *re.findall(r"[\w-]+", key.section))]
    if not found:
        names = {name for key in every for name in (key.key, *re.findall(r"[\w-]+", key.section))}
        raise ActstoreError(f"no section and no key is called '{word}'{nearest(str(word), sorted(names))}")
    render(pl.DataFrame(found, schema=Key._fields, orient="row"), style, output)


def _recipe_of(path: str) -> str:
    """The recipe in the run card of a store, as TOML."""
    from actstore.errors import ActstoreError
    from actstore.store import open as open_store
    from actstore_extract.recipe.recipe import recorded, text_of

    card = open_store(path).run.get("recipe")
    if not isinstance(card, dict):
        raise ActstoreError(f"{path} has no recipe in its run card: it was not made by actstore extract")
    return text_of(recorded(card, f"{path}: its run card"))
