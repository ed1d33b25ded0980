"""The process of a command: where it is its own, what nothing else stops may end it."""

import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What a question may take beyond its limit: DuckDB counts some of its own memory late, and each thread sets aside
# addresses that it may never use (a stack of 8 MB, an arena of 64 MB).
SLACK = 10**9 + 10**8 * (os.cpu_count() or 1)
INTERRUPTED = 130  # the exit status
LONGEST = 1e6  # seconds that the system waits at once
SIZES = Path("/proc/self/statm")

_own = False


def claim() -> None:
    """Say that this process runs a command and nothing else."""
    global _own
    _own = True


@contextmanager
def memory(n_bytes: float) -> Iterator[None]:
    """Inside, a process that was claimed gets that many bytes and SLACK more than it has; what asks for more fails.

    A library that is refused memory where it cannot say so may abort the process: then it ends without our line.
    """
    if not _own or not SIZES.exists():  # macOS has no such file, and keeps to no such limit
        yield
        return
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    has = int(SIZES.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    known = [limit for limit in (before, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(int(has + n_bytes + SLACK), *known, sys.maxsize), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


@contextmanager
def signals() -> Iterator[tuple[int, Callable[[], None]]]:
    """A file descriptor that gets the number of each signal while the main thread is in C, and how to wake its reader.

    Python itself acts on a signal when C returns. In other threads nothing but the wake arrives.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    main = threading.current_thread() is threading.main_thread()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False) if main else -1
    try:
        yield read, lambda: _wake(write)
    finally:
        if main:
            signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)


def _wake(write: int) -> None:
    os.write(write, b"\0")


def interrupted(signals: int, seconds: float) -> bool:
    """Wait on `signals` for Ctrl-C: True then, False when the time is over or the reader was woken."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([signals], [], [], min(left, LONGEST))[0]:
            for number in os.read(signals, 64):
                if number in (0, signal.SIGINT):
                    return number == signal.SIGINT
    return False


def end(message: str, status: int = 1) -> None:
    """End a process that was claimed, at once, as an error of the user; return in any other."""
    if _own:
        os.write(2, f"actstore: {message}\n".encode())
        os._exit(status)
