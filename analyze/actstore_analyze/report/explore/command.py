"""Commands that show a store: one of its samples, and all of its points."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands.options import COUNT, OutputPath, store_argument
from actstore_analyze.commands import layers as layer_numbers
from actstore_analyze.commands import names, say
from actstore_analyze.sae.command import autoencoders

if TYPE_CHECKING:
    from actstore_analyze.report.explore.resources import Resources


@click.command()
@store_argument
@click.argument("sample")
@click.option("--condition", default="none", show_default=True, help="As it was run under this intervention.")
@click.option("-o", "--output", type=OutputPath(), help="Write .html, .png or .svg instead.")
def show(store: Path | str, sample: str, condition: str, output: Path | None) -> None:
    """Show one sample: its picture, where the text looks in it, its tokens, what was said, the logit lens.

    What the store does not keep is said in its place, with the key of a recipe that keeps it.

    \b
    Example:
      actstore show demo/fusion digit-0005
      actstore show demo/fusion digit-0005 -o digit.html
    """
    from actstore.store import open as open_store
    from actstore_analyze.report.explore.show import show as shown

    found = shown(open_store(store), sample, condition)
    if output is not None:
        found.save(output)
        say(f"{output}: {output.stat().st_size / 1e3:.0f} kB")
        return
    from actstore_analyze.report.explore.terminal import printed

    click.echo(printed(found.sample), nl=False)


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE... [SQL]")
@click.option("--roles", callback=names, metavar="ROLE,...", help="Only these; all if not given.")
@partial(autoencoders, required=False)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the page; a free one if not given.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "-o", "--output", type=OutputPath(), help="Write the page as one .html file that needs no server instead."
)
@click.option(
    "--layers",
    callback=layer_numbers,
    metavar="LAYER,...",
    help="Of that file: these, such as 0,4..8; all if not given.",
)
@click.option("--limit", type=COUNT, help="Points of a role at most: 100,000, or 5,000 in a file, if not given.")
@click.option(
    "--projection", type=click.Choice(["pca", "tsne", "umap"]), default="pca", show_default=True, help="Of that file."
)
def explore(
    stores: tuple[str, ...],
    roles: list[str] | None,
    saes: str | None,
    sae_id: str | None,
    hook: str | None,
    port: int,
    no_browser: bool,
    output: Path | None,
    layers: list[int] | None,
    limit: int | None,
    projection: str,
) -> None:
    """Look at the points of some stores: in the plane, layer by layer, each with its picture and its neighbours.

    With --saes the cards of points show features of these sparse autoencoders, in a file too. Two panels, of roles,
    conditions or stores, are linked by sample.

    A page on this machine alone (127.0.0.1, with a token). SQL, last, chooses the rows, as elsewhere. Neighbours are
    always those in the full space. With -o it is one file that opens offline and asks nobody for anything: what it
    shows of the store, pictures too, whoever has it sees.

    \b
    Example:
      actstore explore demo/fusion
      actstore explore demo/fusion demo/gated "from rows where split = 'test'" --roles eoi,last
      actstore explore demo/fusion --roles eoi -o eoi.html
    """
    import secrets
    import webbrowser

    from actstore.store import open as open_store
    from actstore_analyze.report.explore.resources import Resources

    *paths, last = stores
    query = last if paths and last.lstrip().lower().startswith(("select", "from", "with")) else None
    opened = [open_store(path) for path in (paths if query else stores)]
    read = None
    if saes is None and (sae_id or hook):
        raise click.UsageError("--sae-id and --hook are of autoencoders: name them with --saes")
    if saes is not None:
        from actstore_analyze.sae.groups import say_models
        from actstore_analyze.sae.source import source

        read = source(saes, sae_id, hook)
        for store in opened:
            say_models(store, read, say)
    most = limit or (100_000 if output is None else 5_000)
    resources = Resources(opened, query or "from rows", roles=roles or [], saes=read, most=most)
    if output is not None:
        _write(resources, output, layers, projection)
        return
    from actstore_analyze.report.explore.server import HOST, listening, serve

    bound, token = listening(port), secrets.token_urlsafe(16)
    address = f"http://{HOST}:{bound.getsockname()[1]}/?token={token}"
    click.echo(address)
    say("Ctrl-C ends it")
    if not no_browser:
        webbrowser.open(address)
    serve(resources, bound, token)


def _write(resources: "Resources", output: Path, layers: list[int] | None, projection: str) -> None:
    """The page as one file, its size said before."""
    from actstore.commands.outputs import written
    from actstore_analyze.report.explore import page

    page.checked(output)
    choices = page.choices(resources)
    chosen = {one["name"]: resources.layers(one["name"], layers) for one in resources.described}
    sizes = page.estimate(resources, choices, chosen)
    parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items() if size)
    say(f"{output}: about {sum(sizes.values()) / 1e6:.1f} MB ({parts})")
    with written(output) as draft:
        draft.write_text(page.saved(resources, choices, layers=chosen, method=projection), encoding="utf-8")
    say(f"{output}: {output.stat().st_size / 1e6:.1f} MB; whoever has it sees what it shows, pictures too")
