"""Exit statuses: what a command tells the script that ran it."""

from enum import IntEnum

import click

from actstore import process


class Status(IntEnum):
    """How a command ended."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    IN_PART = 3
    NOT_SAVED = 4
    INTERRUPTED = process.INTERRUPTED


MEANINGS = {
    Status.DONE: "done, or nothing was left to do",
    Status.ERROR: "an error, or what was checked is not as it should be; one message on standard error says what to do",
    Status.USAGE: "options or arguments that the command does not take",
    Status.IN_PART: "done in part: some samples failed, or other processes hold the rest (0 of ranks started together)",
    Status.NOT_SAVED: "done and shown, but the result could not be saved in the store",
    Status.INTERRUPTED: "interrupted, by Ctrl-C or SIGTERM; the same command goes on",
}


def end(status: Status) -> None:
    """End the command with this status, after everything it had to say; DONE is no end."""
    if status is not Status.DONE:
        raise click.exceptions.Exit(status)
