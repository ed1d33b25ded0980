"""Limits: what one question may take, and what a store may ask for before memory is given to it."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import Protocol

from actstore import process
from actstore.errors import ActstoreError, QueryError

PATIENCE = 5.0  # seconds that a question has to stop when it was told to, before the process of a command is ended
MOST_SECONDS, MOST_GIGABYTES = 1e9, 1e6  # thirty years; what a machine may have
MACHINE_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Interruptible(Protocol):
    """What can be told to stop, from another thread, again and again."""

    def interrupt(self) -> None:
        """Stop what is running."""


@dataclass(frozen=True)
class Limits:
    """What one SQL question may take: seconds, and gigabytes of memory while it runs and again for its result.

    No array of vectors or attention that is read takes more gigabytes than that either.

    DuckDB neither interrupts a single call of a function nor counts its memory: `repeat('x', 4000000000)` or
    `levenshtein` of long texts goes beyond both. The command line holds its own process to them, which is ended where
    nothing else helps; in Python nothing does: give a stranger's SQL a process of its own, such as `actstore query`.

    >>> Limits(seconds=5, gigabytes=1)
    Limits(seconds=5, gigabytes=1)
    """

    seconds: float = 600.0
    gigabytes: float = field(default=round(MACHINE_BYTES / 2e9, 1))

    def __post_init__(self) -> None:
        if odd := [one for one in (self.seconds, self.gigabytes) if isinstance(one, bool) or not isinstance(one, Real)]:
            raise ActstoreError(f"limits are numbers, of seconds and of gigabytes, not {odd[0]!r}")
        if not (self.seconds > 0 and self.gigabytes > 0):
            raise ActstoreError(
                f"limits of {self.seconds:g} seconds and {self.gigabytes:g} GB leave nothing to work with"
            )
        if self.seconds > MOST_SECONDS or self.gigabytes > MOST_GIGABYTES:
            raise ActstoreError(
                f"limits of {self.seconds:g} seconds and {self.gigabytes:g} GB: at most {MOST_SECONDS:g} and "
                f"{MOST_GIGABYTES:g} can be held"
            )

    @contextmanager
    def watch(self, running: Interruptible) -> Iterator[None]:
        """Interrupt what runs inside when its time is over, and at Ctrl-C. A command's memory is limited.

        Raises QueryError when the time is over, KeyboardInterrupt after Ctrl-C.
        """
        done, late, stopped = threading.Event(), threading.Event(), threading.Event()

        def wait(signals: int) -> None:
            if process.interrupted(signals, self.seconds):
                stopped.set()
            elif not done.is_set():
                late.set()
            told, said = time.monotonic(), "interrupted" if stopped.is_set() else self._too_long()
            while not done.wait(0.1):  # again: an interruption that comes before a query begins is forgotten
                running.interrupt()
                if time.monotonic() > told + PATIENCE:
                    process.end(
                        f"{said}; it did not stop when it was told to, and was ended",
                        status=process.INTERRUPTED if stopped.is_set() else 1,
                    )

        with process.signals() as (signals, wake):
            waiting = threading.Thread(target=wait, args=(signals,), name="actstore limits", daemon=True)
            waiting.start()
            try:
                with process.memory(self.gigabytes * 1e9):
                    yield
            except Exception:  # whatever the interruption came out as: DuckDB, Arrow and Python each have a name for it
                if late.is_set():
                    raise QueryError(self._too_long()) from None
                raise
            finally:
                done.set()
                wake()
                waiting.join()

    def _too_long(self) -> str:
        return (
            f"not answered within {self.seconds:g} seconds; ask for less, or give it more time "
            "(query --seconds, actstore.Limits)"
        )

    def exhausted(self) -> QueryError:
        """What is said where a question needs more memory than it may take."""
        return QueryError(
            f"the query needs more than {self.gigabytes:g} GB of memory; ask for less, or give it more "
            "(query --gigabytes, actstore.Limits)"
        )

    def check_array(self, n_bytes: int, what: str, instead: str) -> None:
        """Raise ActstoreError, before memory is asked for, if an array does not fit."""
        if n_bytes > self.gigabytes * 1e9:
            raise ActstoreError(
                f"{what} would take {n_bytes / 1e9:.2g} GB of memory, and {self.gigabytes:g} are allowed; {instead}, "
                "or allow more: actstore.open(path, limits=actstore.Limits(gigabytes=...))"
            )

    def check_result(self, n_bytes: int) -> None:
        """Raise QueryError if a result has outgrown the memory it may take."""
        if n_bytes > self.gigabytes * 1e9:
            raise QueryError(
                f"the result is larger than {self.gigabytes:g} GB; aggregate, select fewer rows or columns, or give it "
                "more memory (query --gigabytes, actstore.Limits)"
            )


def check_memory(n_bytes: int, what: str, instead: str) -> None:
    """Raise ActstoreError, before memory is asked for, if `what` takes more than the machine has."""
    if n_bytes > MACHINE_BYTES:
        machine = f"this machine has {MACHINE_BYTES / 1e9:.0f}"
        raise ActstoreError(f"{what} would take {n_bytes / 1e9:.0f} GB of memory, and {machine}; {instead}")
