"""Try classes of Transformers and write the table; exit status 1 if any is wrong.

    python -m actstore_extract.models                      all of them, into the table beside this file
    python -m actstore_extract.models qwen2_vl llava       these, and how they came out

Rows are kept in `--out` as they come, so that a run that was ended goes on; the table is of all that are there.
"""

import multiprocessing
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from actstore_extract.models.kind import image_text, kind_named, text_only, variants
from actstore_extract.models.row import Row, read, write
from actstore_extract.models.table import counts, table
from actstore_extract.models.trial import trial
from actstore_extract.models.vision import torchvision_ready

TABLE = Path(__file__).parent / "MODELS.md"
SECONDS = 600


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), help="Where rows are kept; else they are with the table.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes at a time.")
@click.option("--again", is_flag=True, help="Try those too whose row is there.")
def main(names: Sequence[str], out: Path | None, jobs: int, again: bool) -> None:
    """Try the kinds named, or all of them."""
    if not torchvision_ready():
        click.echo("torchvision is not installed: kinds whose processor needs it are not built; make models brings it")
    with tempfile.TemporaryDirectory() as scratch:
        kept = out or Path(scratch) / "rows"
        there = {} if again else read(kept)
        wanted = [name for name in names or _all() if name not in there]
        for row in _rows(wanted, Path(scratch), jobs):
            write(row, kept)
            click.echo(f"{row.name}: {row.verdict} {row.said}".rstrip())
        rows = read(kept)
    click.echo(counts(rows))
    if not names:
        TABLE.write_text(table(rows), encoding="utf-8")
        click.echo(f"written to {TABLE}")
    sys.exit(any(row.verdict == "wrong" for row in rows.values()))


def _all() -> list[str]:
    return [*image_text(), *text_only(), *variants()]


def _rows(names: Sequence[str], scratch: Path, jobs: int) -> Iterator[Row]:
    """Rows as their kinds are tried, each in a process of its own."""
    with ThreadPoolExecutor(jobs) as threads:
        yield from threads.map(lambda name: _apart(name, scratch), names)


def _apart(name: str, scratch: Path) -> Row:
    """The row of a kind that is tried in a process that may crash, or take too long."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(name, scratch))
    process.start()
    process.join(SECONDS)
    is_late = process.is_alive()
    if is_late:
        process.kill()
        process.join()
    kind = kind_named(name)
    shutil.rmtree(scratch / name, ignore_errors=True)  # all of them together are many gigabytes
    lost = f"it took more than {SECONDS} seconds" if is_late else f"its process ended with status {process.exitcode}"
    return read(scratch / "rows" / name).get(name) or Row(name, kind.architecture, kind.sees, "wrong", lost)


def _child(name: str, scratch: Path) -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(trial(kind_named(name), scratch / name), scratch / "rows" / name)


if __name__ == "__main__":
    main()
