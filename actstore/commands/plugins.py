"""Commands of other packages: found through entry points, loaded when they are asked for."""

import sys
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from actstore import process
from actstore.errors import ActstoreError, nearest
from actstore.handing import how_to_install

GROUP = "actstore.commands"


def _loaded(entry: EntryPoint) -> click.Command:
    """The command, or one in its place that says what to install, so that --help works without the extras."""
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        line = how_to_install(error)
        if not line:
            raise
        return _uninstalled(entry.name, f"this command needs {line}")
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


class Group(click.Group):
    """A group that says which of its commands an unknown one may mean."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but for a command that is unknown."""
        name, *rest = args
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"no command '{name}'{self.hint(ctx, name, rest)}")
        return super().resolve_command(ctx, args)

    def hint(self, ctx: click.Context, name: str, rest: list[str]) -> str:
        """What to do instead of the command `name`, which `rest` follows; or nothing."""
        later = next((word for word in rest if self.get_command(ctx, word)), None)
        return nearest(name, self.list_commands(ctx)) or (f"; the command comes first: {later}" if later else "")


class Shelf(Group):
    """A group that lists recipes, one of whose commands prints one."""

    def hint(self, ctx: click.Context, name: str, rest: list[str]) -> str:
        """How a recipe is printed."""
        return super().hint(ctx, name, rest) or f"; a recipe is printed by: {ctx.command_path} show {name}"


class Commands(Group):
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
                raise click.ClickException(f"this command needs {line}") from error
            raise
