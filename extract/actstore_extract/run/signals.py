"""Signals: what ends a run between batches."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["terminated"]


@contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM, as Slurm and torchrun send it, ends a run as Ctrl-C does: the batch in hand is dropped."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
