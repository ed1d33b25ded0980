"""Ctrl-C and SIGTERM between two steps: what was learned is kept first."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stop", "stopping"]

PATIENCE = 2.0  # seconds


class Stop:
    """Whether somebody has asked for the end."""

    def __init__(self) -> None:
        self.asked = False
        self.since = 0.0

    def __call__(self, *_: object) -> None:
        """Noted the first time; again, seconds later, it ends at once (torchrun passes on what we got already)."""
        if self.asked and time.monotonic() - self.since > PATIENCE:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.since = True, time.monotonic()


@contextmanager
def stopping() -> Iterator[Stop]:
    """SIGINT and SIGTERM, as Slurm and torchrun send it, are noted inside."""
    stop, before = Stop(), {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
