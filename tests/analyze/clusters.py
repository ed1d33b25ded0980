"""Dask on this machine, for tests: a scheduler and workers that can be killed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

AT = re.compile(r"Scheduler at:\s+tcp://(\S+)")


@dataclass
class Cluster:
    """A scheduler at `address`, and its workers, each a process of one thread."""

    scheduler: subprocess.Popen[str]
    address: str
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """As --executor has it."""
        return f"dask://{self.address}"

    def work(self, n: int = 1, **environment: str) -> None:
        """Have more workers, which join when they have begun."""
        words = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://{self.address}", "--nthreads", "1"]
        for _ in range(n):
            self.workers.append(
                subprocess.Popen(
                    [*words, "--no-nanny", "--no-dashboard"],
                    env={**_environment(), **environment},
                    stderr=subprocess.DEVNULL,
                )
            )

    def end(self) -> None:
        """Kill all of it."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextmanager
def cluster(workers: int) -> Iterator[Cluster]:
    """A cluster whose scheduler gives a unit up that ended two workers."""
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    scheduler = subprocess.Popen(
        [*words, "--no-dashboard", "--no-show"],
        env={**_environment(), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert scheduler.stderr is not None
    said = iter(scheduler.stderr.readline, "")
    address = next(match[1] for line in said if (match := AT.search(line)))
    found = Cluster(scheduler, address)
    try:
        found.work(workers)
        yield found
    finally:
        found.end()
        scheduler.stderr.close()


def _environment() -> dict[str, str]:
    """Modules of tests are found by workers, too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
