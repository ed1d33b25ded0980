"""The process of a command: where it is its own, what nothing else stops may end it."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a question may take beyond its limit: DuckDB counts some of its own memory late, and each thread sets aside
# addresses that it may never use (a stack of 8 MB, an arena of 64 MB).
SLACK = 10**9 + 10**8 * (os.cpu_count() or 1)
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


def end(message: str) -> None:
    """End a process that was claimed, at once, as an error of the user; return in any other."""
    if _own:
        os.write(2, f"actstore: {message}\n".encode())
        os._exit(1)
