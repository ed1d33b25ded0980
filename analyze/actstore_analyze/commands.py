"""Options that the commands of measures share, and what each of these commands does in the end."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from actstore.commands.options import (
    COUNT,
    SEED,
    Number,
    OutputPath,
    Place,
    names,
    numbers,
    output_options,
    store_argument,
)
from actstore.commands.statuses import Status, end
from actstore.errors import visible

if TYPE_CHECKING:
    import polars as pl

    from actstore_analyze.charts.charts import Draw, Figure
    from actstore_analyze.charts.together import Together
    from actstore_analyze.study.recall import Answer
    from actstore_analyze.study.study import Study

__all__ = [
    "RUNNING",
    "beside",
    "both_sides",
    "drawn",
    "end_of",
    "interval",
    "judged",
    "layers",
    "measured",
    "metric",
    "names",
    "neighborly",
    "numbers",
    "of_replays_alone",
    "on_device",
    "prepared",
    "published",
    "referenced",
    "replayed",
    "roles",
    "say",
    "show",
    "subtracted",
    "unshared",
]

DRAWN = "it is drawn with --figure"
Command = TypeVar("Command", bound=Callable[..., object])


def say(text: str) -> None:
    """A line on standard error."""
    click.echo(visible(text, lines=True), err=True)


layers = numbers("layer", from_last=True)


def roles(usual: str) -> Callable[[Command], Command]:
    """--roles; usual says which without it."""
    return click.option(
        "--roles", callback=names, metavar="ROLE,...", help=f"Token positions, such as eoi,last; without it {usual}."
    )


def _an_engine(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    from actstore_analyze.study.engines import checked

    return None if name is None else checked(name)


def measured(command: Command) -> Command:
    """STORE, SQL, --layers, --jobs, --executor, --force, --figure, --format and --output."""
    shared = (
        store_argument,
        click.argument("sql", default="from rows"),
        click.option(
            "--layers",
            callback=layers,
            metavar="LAYER,...",
            help="Layers, such as 0,4..8 (0: embeddings), or -1, the last; without it all that it can be measured at.",
        ),
        click.option("--jobs", default=1, show_default=True, type=COUNT, help="Processes that share the work."),
        click.option(
            "--executor",
            callback=_an_engine,
            metavar="ENGINE",
            help="Who shares it instead: dask://HOST:PORT, processes, or MODULE:FUNCTION that returns an Executor.",
        ),
        click.option("--force", is_flag=True, help="Compute it again, though a saved result would answer."),
        click.option("--figure", type=OutputPath(), help="Draw it, as .png, .svg or .pdf."),
        output_options,
    )
    for decorate in reversed(shared):
        command = decorate(command)
    return command


def prepared(command: Command) -> Command:
    """--center and --drop-dims: a few dimensions can own every distance."""
    center = click.option("--center", is_flag=True, help="Subtract the mean of the vectors measured together.")
    drop = click.option(
        "--drop-dims",
        callback=numbers("dimension"),
        metavar="DIM,...",
        help="Leave out these dimensions, such as massive ones that actstore outliers lists.",
    )
    return center(drop(command))


def neighborly(command: Command) -> Command:
    """--unique, --group and --queries: which vectors may be neighbours, and of which they are looked for."""
    unique = click.option("--unique", is_flag=True, help="Of equal vectors measure the first alone.")
    group = click.option(
        "--group",
        metavar="COLUMN",
        help="Rows with one value here are never each other's neighbours, such as questions about one picture.",
    )
    queries = click.option(
        "--queries",
        type=click.IntRange(min=2),
        metavar="N",
        help="Look for the neighbours of N samples alone, drawn by --seed, among all.",
    )
    return unique(group(queries(command)))


def referenced(command: Command) -> Command:
    """--reference of the figures that the papers have too."""
    return click.option(
        "--reference",
        callback=names,
        metavar="MODEL",
        help="Draw behind the figure what was published of it: chameleon-7b, ...; several with --together.",
    )(command)


def beside(command: Command) -> Command:
    """--together: the same call on other stores, in one table and one panel."""
    return click.option(
        "--together",
        multiple=True,
        metavar="STORE",
        type=Place(),
        help="Ask the same of this store too, several times if you like: one table, one panel over relative depth.",
    )(command)


def _price(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[float, float] | None:
    """`2.5,10` as (2.5, 10.0)."""
    if text is None:
        return None
    try:
        given, taken = map(float, text.split(","))
        if not (0 <= given < math.inf and 0 <= taken < math.inf):
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"'{text}' is no pair of prices; for example: 2.5,10") from None
    return given, taken


def judged(needless: str) -> Callable[[Command], Command]:
    """--judge, --base-url, --at-once, --tries, --timeout, --price and --estimate; needless says what is without."""
    shared = (
        click.option("--judge", metavar="MODEL", help=f"Ask this model; {needless}."),
        click.option(
            "--base-url", metavar="URL", help="Any OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY."
        ),
        click.option("--at-once", default=4, show_default=True, type=COUNT, help="Questions asked at a time."),
        click.option("--tries", default=5, show_default=True, type=COUNT, help="Of each question."),
        click.option(
            "--timeout", default=60.0, show_default=True, type=Number(0.001), help="Seconds that a reply may take."
        ),
        click.option("--price", callback=_price, metavar="IN,OUT", help="Dollars for a million tokens in and out."),
        click.option("--estimate", is_flag=True, help="Say what would be asked and what it would cost; ask nothing."),
    )

    def decorated(command: Command) -> Command:
        for decorate in reversed(shared):
            command = decorate(command)
        return command

    return decorated


RUNNING = ("low_memory", "model", "dtype", "tolerance", "limit")


def replayed(command: Command) -> Command:
    """--limit, --low-memory, --model, --dtype and --tolerance."""
    shared = (
        click.option("--limit", type=COUNT, help="Replay only the first N samples, or of each pair."),
        click.option("--low-memory", is_flag=True, help="Replay with the weights of one block at a time in memory."),
        click.option(
            "--model",
            metavar="PATH",
            help="Folder of the weights, or a shipped name; without it what the run card says.",
        ),
        click.option(
            "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Without it the run card's."
        ),
        click.option("--tolerance", type=Number(0), help="How far an un-patched replay may be, relatively."),
    )
    for decorate in reversed(shared):
        command = decorate(command)
    return command


def of_replays_alone(names: Iterable[str], remedy: str) -> None:
    """Raise UsageError if one of these options was given, where nothing is replayed."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT):
            raise click.UsageError(f"--{name.replace('_', '-')} is of replays: {remedy}")


def both_sides(command: Command) -> Command:
    """--text and --image of the commands that set one modality against the other."""
    for name, order in (("image", "text-image"), ("text", "image-text")):
        usual = f"role = 'random-{name}' and prompt_order = '{order}'"
        command = click.option(
            f"--{name}", default=usual, show_default=True, metavar="CONDITION", help=f"Which rows are {name}, in SQL."
        )(command)
    return command


def metric(usual: str) -> Callable[[Command], Command]:
    """--metric, `usual` without it."""
    kinds = click.Choice(["euclidean", "normalised", "cosine"])
    return click.option("--metric", default=usual, show_default=True, type=kinds)


def _a_device(_context: click.Context, _option: click.Parameter, name: str) -> str:
    from actstore_analyze import devices

    return devices.checked(name)


def on_device(command: Command) -> Command:
    """--device of the measures whose products can be computed on a GPU."""
    return click.option(
        "--device",
        default="cpu",
        show_default=True,
        callback=_a_device,
        metavar="DEVICE",
        help="Where products are computed: cuda is a GPU, cuda:1 the second.",
    )(command)


def unshared(device: str, jobs: int, executor: str | None) -> None:
    """Raise UsageError for a GPU and workers: these are of the CPU."""
    if device != "cpu" and (jobs > 1 or executor is not None):
        shared = f"--jobs {jobs}" if jobs > 1 else f"--executor {executor}"
        raise click.UsageError(
            f"--device {device} and {shared}: workers share what a CPU has to do, and one process has the GPU; "
            "leave one of the two out"
        )


def interval(command: Command) -> Command:
    """--no-interval of the measures that have 95 % intervals."""
    return click.option("--no-interval", is_flag=True, help="Leave out the 95 % intervals, which take their time.")(
        command
    )


def subtracted(command: Command) -> Command:
    """--minus-store of the measures whose differences between stores are told apart sample by sample."""
    return click.option(
        "--minus-store",
        metavar="STORE",
        type=Place(),
        help="The difference from the same of this store, over the samples of both, with its interval.",
    )(command)


def drawn(of: str) -> Callable[[Command], Command]:
    """--positions and --seed: what is drawn `of` what."""

    def decorated(command: Command) -> Command:
        positions = click.option(
            "--positions", type=COUNT, help="Of a role with many positions (image), draw only so many."
        )
        return positions(
            click.option("--seed", default=0, show_default=True, type=SEED, help=f"Seed of {of}.")(command)
        )

    return decorated


def end_of(*found: "Answer") -> None:
    """Say where answers are kept, last; one that could not be ends the command with a status of its own."""
    for one in found:
        say(one.note)
    end(Status.DONE if all(one.result for one in found) else Status.NOT_SAVED)


def show(
    store: Path | str,
    study: "type[Study]",
    draw: "Draw",
    *,
    force: bool,
    figure: Path | None,
    style: str | None,
    output: Path | None,
    reference: Sequence[str] | None = None,
    together: Sequence[Path | str] = (),
    panel: "Together | None" = None,
    **asked: Any,
) -> None:
    """Answer the call of a study, print its table and draw it; reference: models of which something is published.

    together: other stores that the same is asked of; panel: the figure of all of them. A call from Python, which has
    left a function with the context, gets the answer instead.
    """
    if asked.pop("no_interval", False):
        asked["interval"] = "none"
    from actstore.commands.table import render
    from actstore.sql.query import text_of
    from actstore.store import open as open_store
    from actstore_analyze.charts import charts
    from actstore_analyze.measured import Measured
    from actstore_analyze.study.recall import answer
    from actstore_analyze.study.selection import counted
    from actstore_analyze.study.study import EVERYTHING
    from actstore_analyze.study.subjects import subjects

    if figure is not None:
        charts.check(figure)
    if "device" in asked:
        unshared(asked["device"], asked["jobs"], asked["executor"])
    text_of(asked.get("sql", EVERYTHING))
    stores = subjects([open_store(one) for one in (store, *together)])
    own = [{"layers": counted(one.store, asked["layers"])} if "layers" in asked else {} for one in stores]
    calls = {one.title: study.of(one.store, **asked | layers) for one, layers in zip(stores, own, strict=True)}
    hand = click.get_current_context().obj
    behind = _behind(calls[stores[0].title], reference, drawn=hand is not None or figure is not None)
    pale = _alone(behind) if len(stores) == 1 else {"references": behind}
    found = {one.title: answer(one.store, calls[one.title], force=force, say=say) for one in stores}
    tables = {title: one.table for title, one in found.items()}
    call = calls[stores[0].title].computed_on(found[stores[0].title].device)
    for title, table in tables.items():
        for line in calls[title].remarks(table):
            say(line)
    first = tables[stores[0].title]
    table = first if len(stores) == 1 else call.beside(tables)

    about = {} if call.about is None else {"about": call.about}
    drawing: Callable[[], Figure] = partial(draw, first, title=stores[0].store.path.name, **about, **pale)
    if panel is not None and len(stores) > 1:
        drawing = partial(panel, tables, title=call.title, **pale)
    if hand is not None:
        for one in found.values():
            if one.result is None:
                say(one.note)
        saved = tuple(one.result for one in found.values() if one.result)
        hand(Measured(table=table, call=call, store=store, results=saved, draw=drawing))
        return
    render(table, style, output)
    if figure is not None:
        charts.draw(drawing(), figure)
    end_of(*found.values())


def published(call: "Study", models: Sequence[str] | None, *, drawn: bool) -> "dict[str, Any]":
    """What was published of one model, as a figure takes it; nothing, which is said, where it is not drawn or known."""
    return _alone(_behind(call, models, drawn=drawn))


def _behind(call: "Study", models: Sequence[str] | None, *, drawn: bool) -> "list[pl.DataFrame]":
    found = {model: call.published(model) for model in models or ()}
    for model, frame in found.items():
        if frame is None or not drawn:
            say(f"--reference {model}: {'we do not have what was published of this' if drawn else DRAWN}")
    return [frame for frame in found.values() if frame is not None and drawn]


def _alone(frames: "Sequence[pl.DataFrame]") -> "dict[str, Any]":
    """The one that stands behind the figure of one store."""
    if len(frames) > 1:
        raise click.UsageError("--reference takes several models with --together; behind one store's figure stands one")
    return {"reference": frames[0]} if frames else {}
