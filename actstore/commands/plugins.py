"""Commands of other packages: found through entry points, loaded when they are asked for."""

import sys
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points, requires
from typing import Any

import click

from actstore import process
from actstore.errors import ActstoreError, nearest

GROUP = "actstore.commands"

# Top-level module -> the extra that installs it.
EXTRAS = {
    "PIL": "extract",
    "accelerate": "extract",
    "datasets": "extract",
    "pydantic": "extract",
    "safetensors": "extract",
    "torch": "extract",
    "transformers": "extract",
    "altair": "analyze",
    "faiss": "analyze",
    "hdbscan": "analyze",
    "jinja2": "analyze",
    "scipy": "analyze",
    "sklearn": "analyze",
    "vl_convert": "analyze",
    "starlette": "explore",
    "uvicorn": "explore",
    "peft": "train",
    "sae_lens": "sae",
    "openai": "judge",
}


def how_to_install(error: ModuleNotFoundError) -> str | None:
    """The pip line that brings a missing module, or None for one that no extra brings.

    >>> how_to_install(ModuleNotFoundError(name="openai"))
    "this command needs openai; install it with: pip install 'openai>=1.50'"
    """
    module = (error.name or "").split(".")[0]
    extra = EXTRAS.get(module)
    return f"this command needs {module}; install it with: {pip_line(extra)}" if extra else None


def pip_line(extra: str) -> str:
    """What pip installs for an extra of this package, by the names that every index has.

    >>> pip_line("sae")
    "pip install 'sae-lens>=6'"
    """
    needed = [line.partition(";") for line in requires("actstore") or ()]
    own = [f"'{name.strip()}'" for name, _, marker in needed if f"extra == '{extra}'" in marker.replace('"', "'")]
    return " ".join(["pip install", *own])


def _loaded(entry: EntryPoint) -> click.Command:
    """The command, or one in its place that says what to install, so that --help works without the extras."""
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        line = how_to_install(error)
        if not line:
            raise
        return _uninstalled(entry.name, line)
    assert isinstance(command, click.Command)
    return command


def _uninstalled(name: str, line: str) -> click.Command:
    def refuse() -> None:
        raise click.ClickException(line)

    return click.Command(
        name,
        callback=refuse,
        help=line,
        context_settings={"ignore_unknown_options": True},
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED, expose_value=False)],
    )


class Commands(click.Group):
    """A group whose commands are its own and those of the entry-point group actstore.commands."""

    @cached_property
    def _found(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands; nothing is loaded."""
        return sorted({*super().list_commands(ctx), *self._found})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, loaded now."""
        own = super().get_command(ctx, cmd_name)
        return own or (_loaded(self._found[cmd_name]) if cmd_name in self._found else None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown command names the nearest."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            later = next((word for word in args[1:] if self.get_command(ctx, word)), None)
            first = nearest(name, self.list_commands(ctx)) or (f"; the command comes first: {later}" if later else "")
            ctx.fail(f"no command '{name}'{first}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does; a missing extra becomes the line that installs it, and a reader that has gone is no error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            process.silence(sys.stdout)
            raise click.exceptions.Exit(0) from None
        except EOFError as error:  # no command asks for anything: click would call it an interruption
            raise ActstoreError(
                f"a file ends where it should go on ({error}); look whether its copy was cut"
            ) from error
        except ModuleNotFoundError as error:
            if line := how_to_install(error):
                raise click.ClickException(line) from error
            raise
