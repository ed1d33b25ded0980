"""actstore push, actstore pull: a store to a URL, and back."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands.opening import open_store
from actstore.commands.options import OutputPath, Url, folder_argument, names, numbers

if TYPE_CHECKING:
    from actstore.maintain.pushing import Push


@click.command()
@folder_argument
@click.argument("url", type=Url())
@click.option("--results/--no-results", default=True, show_default=True, help="Saved results, too.")
@click.option("--private", is_flag=True, help="Hub: a data set that is made is yours alone.")
@click.option("--license", "license_name", metavar="NAME", help="Hub: on the card, such as cc-by-4.0.")
@click.option("--card", is_flag=True, help="Hub: replace a card that somebody has written or changed.")
def push(store: Path, url: str, results: bool, private: bool, license_name: str | None, card: bool) -> None:
    """Send a store to object storage (s3://, gs://, az://) or, as a data set, to the Hub (hf://datasets/OWNER/NAME).

    Only what is not there is sent: what was interrupted goes on, and of a store that grew what is new is sent. Readers
    see the store once all of it is there, and later each new part whole. Credentials are those of the environment, or
    of hf auth login.

    \b
    Example:
      actstore push demo/fusion s3://my-bucket/fusion
      actstore push demo/fusion hf://datasets/ME/fusion --license cc-by-4.0
    """
    if url.startswith("hf:"):
        sent = _to_hub(store, url, saved=results, private=private, license_name=license_name, card=card)
    elif private or license_name or card:
        raise click.UsageError("--private, --license and --card are of the Hub: hf://datasets/OWNER/NAME")
    else:
        from actstore.maintain.pushing import push as send

        sent = send(store, url, saved=results)
    left = "" if results else "; saved results stay here"
    files, parts = (f"{n} {noun}{'s' * (n != 1)}" for n, noun in ((sent.files, "file"), (sent.commits, "part")))
    click.echo(f"{url}: {files} sent ({sent.bytes / 1e6:.1f} MB), {parts} new there{left}", err=True)


def _to_hub(store: Path, url: str, *, saved: bool, private: bool, license_name: str | None, card: bool) -> "Push":
    from actstore.commands.info import summary
    from actstore.maintain.publishing import publish

    about = summary(open_store(store), url)
    sent = publish(store, url, about=about, saved=saved, private=private, license_name=license_name, card=card)
    if sent.kept_card:
        click.echo(f"{url}: its README.md is somebody's own, and stays; --card puts actstore's in its place", err=True)
    return sent


@click.command()
@click.argument("url", type=Url())
@click.argument("folder", type=OutputPath(file_okay=False, dir_okay=True))
@click.option("--roles", callback=names, metavar="NAME,...", help="These roles alone, in a store of their own.")
@click.option(
    "--layers",
    callback=numbers("layer", from_last=True),
    metavar="0,4..8",
    help="These layers alone, likewise; -1 is the last.",
)
def pull(url: str, folder: Path, roles: list[str] | None, layers: list[int] | None) -> None:
    """Copy a store from a URL into a folder, where it is a store as any.

    Every file is compared with its committed checksum. What was interrupted goes on, and a store that grew is pulled
    into the same folder again. To read some of a store needs no pull: commands take the URL.
    With --roles or --layers only that is fetched, and is a new store, whose run card says of what.

    \b
    Example:
      actstore pull s3://my-bucket/fusion fusion
      actstore pull s3://my-bucket/fusion fusion-eoi --roles eoi --layers 4,8
    """
    from actstore.maintain.pulling import pull as fetch

    store = fetch(url, folder, roles=roles, layers=layers)
    n_bytes = sum(commit.bytes for commit in store.commits)
    click.echo(f"{folder}: {len(store.parts)} parts, {n_bytes / 1e6:.1f} MB", err=True)
