"""actstore push, actstore pull: a store to a URL, and back."""

from pathlib import Path

import click

from actstore.commands.options import OutputPath, Url, folder_argument, names, numbers


@click.command()
@folder_argument
@click.argument("url", type=Url())
def push(store: Path, url: str) -> None:
    """Send a store to object storage: s3://, gs:// or az://, with the credentials of the environment.

    Only what is not there is sent: what was interrupted goes on, and of a store that grew what is new is sent. Readers
    see the store once all of it is there, and later each new part whole. Saved results go along.

    \b
    Example:
      actstore push demo/fusion s3://my-bucket/fusion
    """
    from actstore.maintain.pushing import push as send

    sent = send(store, url)
    click.echo(f"{url}: {sent.files} files sent ({sent.bytes / 1e6:.1f} MB), {sent.commits} parts new there", err=True)


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
