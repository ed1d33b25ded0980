"""actstore features: what the features of sparse autoencoders are active in."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import COUNT, OutputPath, output_options, store_argument
from actstore_analyze.commands import end_of, layers, numbers, on_device, roles, say
from actstore_analyze.sae.command import autoencoders

MOST = 24  # features of a page where none is named


@click.command()
@store_argument
@click.argument("sql", default="from rows")
@autoencoders
@roles("image, else text")
@click.option("--layers", callback=layers, metavar="L,...", help="Layers; without it all that have an autoencoder.")
@click.option("--feature", callback=numbers("feature"), metavar="N,...", help="Only these.")
@click.option("--top", default=10, show_default=True, type=COUNT, help="Samples of each feature.")
@click.option("--label", help="Column that top samples are said to have in common; `label` if there is one.")
@click.option("--descriptions", metavar="FOLDER", help="Neuronpedia's exports, numbered as the autoencoders.")
@click.option("--page", type=OutputPath(), help="Write the features as one .html page, with pictures and heat maps.")
@click.option(
    "--neuronpedia", type=OutputPath(), metavar="FOLDER", help="Write them as Neuronpedia's exports have features."
)
@click.option("--force", is_flag=True, help="Compute it again, though it was saved.")
@on_device
@output_options
def features(
    store: Path | str,
    sql: str,
    feature: list[int] | None,
    descriptions: str | None,
    page: Path | None,
    neuronpedia: Path | None,
    force: bool,
    style: str | None,
    output: Path | None,
    **asked: Any,
) -> None:
    """Features of sparse autoencoders: how often each is active, and the samples in which it is strongest.

    The table has every feature that is active at all. A page shows those named by --feature, else those whose top
    samples have most in common: histogram, top samples with the feature painted on the picture, the tokens it makes
    likelier where the store keeps a lens, and a description where one is given. Numbers of layers are residual points.

    \b
    Example:
      actstore features demo/mapped --saes digits-mapped --layers 4 --format table
      actstore features demo/mapped "from rows where split = 'test'" --saes digits-mapped --page features.html
      actstore features demo/mapped --saes digits-mapped --layers 4 --feature 17,42 --neuronpedia v1
    """
    from actstore.commands.table import render
    from actstore.store import open as open_store
    from actstore_analyze.report.features import shown
    from actstore_analyze.sae.strongest import Strongest
    from actstore_analyze.study.recall import answer

    if page is not None:
        shown.check(page)
    opened = open_store(store)
    call = Strongest.of(opened, sql=sql, **asked)
    found = answer(opened, call, force=force, say=say)
    chosen = shown.chosen(found.table, feature)
    if page is not None or neuronpedia is not None:
        dashboards = shown.dashboards_of(opened, call, chosen if feature else shown.telling(chosen, MOST), descriptions)
        if page is not None:
            size = shown.write_page(opened, call, found.table, dashboards, page)
            features = f"{len(dashboards)} feature{'s' * (len(dashboards) != 1)}"
            say(f"{page}: {features}, {size / 1e3:.0f} kB; whoever has it sees its pictures")
        if neuronpedia is not None:
            files = len(shown.write_export(opened, call, dashboards, neuronpedia))
            say(f"{neuronpedia}: {files} file{'s' * (files != 1)}")
    if output is not None or (page is None and neuronpedia is None):
        render(chosen, style, output)
    end_of(found)
