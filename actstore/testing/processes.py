"""Processes of a trial: started, listened to, and gone when the trial is over."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from actstore.testing.known import BrokenPromiseError

Process = subprocess.Popen[str]


@contextmanager
def python(*arguments: object) -> Iterator[Process]:
    """A Python process that finds the same modules; killed at the end, if it has not ended."""
    command, pipe = [sys.executable, *map(str, arguments)], subprocess.PIPE
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=paths) as process:
        try:
            yield process
        finally:
            process.kill()
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # of a line that it did not live to read
                process.stdin.close()


def next_line(process: Process) -> str:
    """The next line that it says; raises BrokenPromiseError if it has ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    if line := process.stdout.readline():
        return line.strip()
    complaint = process.stderr.read().strip().splitlines()[-1:]
    raise BrokenPromiseError(f"a process ended with status {process.wait()}: {''.join(complaint)}")


def tell(process: Process, line: str) -> None:
    """Give it a line on its standard input; one that has ended is found out when it should answer."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(f"{line}\n")
        process.stdin.flush()


def lines(process: Process) -> list[str]:
    """What else it says until it ends; a line that was cut by its end is left out."""
    assert process.stdout is not None
    return [line.strip() for line in process.stdout if line.endswith("\n")]
