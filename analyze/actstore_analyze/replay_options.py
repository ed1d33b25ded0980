"""Options of the commands that replay."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import click

__all__ = ["RUNNING", "of_replays_alone", "replayed"]

RUNNING = ("low_memory", "model", "dtype", "tolerance", "limit")

Command = TypeVar("Command", bound=Callable[..., object])


def replayed(command: Command) -> Command:
    """--limit, --low-memory, --model, --dtype and --tolerance."""
    shared = (
        click.option("--limit", type=click.IntRange(min=1), help="Replay only the first N samples, or of each pair."),
        click.option("--low-memory", is_flag=True, help="Replay with the weights of one block at a time in memory."),
        click.option(
            "--model",
            metavar="PATH",
            help="Folder of the weights, or a shipped name; without it what the run card says.",
        ),
        click.option(
            "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Without it the run card's."
        ),
        click.option("--tolerance", type=click.FloatRange(0), help="How far an un-patched replay may be, relatively."),
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
