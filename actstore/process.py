"""The process of a command: where it is its own, what nothing else stops may end it; and what a fork leaves out."""

import atexit
import io
import os
import re
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What a question may take beyond its limit: DuckDB counts some of its own memory late, and each thread sets aside
# addresses that it may never use (a stack of 8 MB, an arena of 64 MB).
SLACK = 10**9 + 10**8 * (os.cpu_count() or 1)
INTERRUPTED = 130  # the exit status
LONGEST = 1e6  # seconds that the system waits at once
NO_HOME = "/nonexistent"  # what systems say of users without one
SIZES = Path("/proc/self/statm")
THREADS = Path("/proc/self/task")
POOL = re.compile(r"polars-\d")  # how polars calls the threads that compute; it has others, which no fork waits for

_own = False
_left = False  # calls under way, for good
_connected = False
_at_work = False  # threads of tables, when this process was forked last
_forked = False  # from a process where they were


def claim() -> None:
    """Say that this process runs a command and nothing else.

    Standard streams that are closed are held: else a file that is opened would get their number, and what is said.
    """
    global _own
    _own = True
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    have_home()
    if sys.stdout is not None:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal may not know UTF-8
    if sys.stderr is not None:
        remarks = io.BufferedWriter(_Remarks(2, "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(remarks, sys.stderr.encoding, "backslashreplace", line_buffering=True)


def have_home() -> None:
    """Where the user has no home, HOME is a folder that is not there: libraries that look for one at import fail."""
    try:
        Path.home()
    except RuntimeError:  # no HOME, and no line in the table of users
        os.environ["HOME"] = NO_HOME


class _Remarks(io.FileIO):
    """Standard error, which nobody has to read: hours of work do not end with the reader of their remarks."""

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except OSError:
            return memoryview(content).nbytes


def silence(stream: TextIO) -> None:
    """Let what is written to a stream from now on go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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


def hear_interruptions() -> None:
    """Let Ctrl-C end waits, as it does in Python: polars, once imported, has the system go on with them."""
    signal.siginterrupt(signal.SIGINT, True)


@contextmanager
def signals() -> Iterator[tuple[int, Callable[[], None]]]:
    """A file descriptor that gets the number of each signal while the main thread is in C, and how to wake its reader.

    Ctrl-C is KeyboardInterrupt at the end, and not before: what is inside can be left in order. In other threads
    nothing but the wake arrives.
    """
    pressed: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    usual = signal.getsignal(signal.SIGINT) if main else None
    if callable(usual):
        signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        read, write = os.pipe()
        os.set_blocking(write, False)
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False) if main else -1
        try:
            yield read, lambda: _wake(write)
        finally:
            if main:
                signal.set_wakeup_fd(before)
            os.close(read)
            os.close(write)
    finally:
        if callable(usual):
            signal.signal(signal.SIGINT, usual)
        if pressed:
            raise KeyboardInterrupt from None


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


def leave() -> None:
    """Say that calls may be under way in threads or processes of this one that nobody waits for any more."""
    global _left
    _left = True


def finish(status: int) -> NoReturn:
    """End with a status: at once, children too, where calls may be under way that Python would wait for."""
    if _own and (_left or status == INTERRUPTED):
        from multiprocessing import active_children

        for child in active_children():
            child.terminate()
        atexit._run_exitfuncs()  # what others leave in order; threads are waited for elsewhere
        if sys.stderr is not None:
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def check_forked() -> None:
    """Raise RuntimeError in a fork that lacks the threads which polars and DuckDB would wait for without end.

    No ActstoreError: many of those are taken for what they say of a store.
    """
    if _forked:
        raise RuntimeError(
            "this process was forked from one that had used tables, whose threads it lacks: it can open stores and "
            "read vectors by row id, and no more; start it by spawn: multiprocessing.get_context('spawn'), "
            "DataLoader(..., multiprocessing_context='spawn')"
        )


def connected() -> None:
    """Say that this process has a connection of DuckDB, with threads that do not go on in a fork."""
    global _connected
    _connected = True


def _look() -> None:
    """Before a fork: whether threads are at work that the child will lack."""
    global _at_work
    _at_work = _connected or ("polars" in sys.modules and any(map(_of_polars, _threads())))


def _threads() -> list[Path]:
    return [*THREADS.iterdir()] if THREADS.exists() else []  # macOS has no such folder, and seldom forks


def _of_polars(thread: Path) -> bool:
    try:
        return bool(POOL.match((thread / "comm").read_text(errors="replace")))
    except OSError:  # it has ended since
        return False


def _in_child() -> None:
    global _forked
    _forked = _forked or _at_work


os.register_at_fork(before=_look, after_in_child=_in_child)
