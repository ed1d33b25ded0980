"""Devices: several of one machine in one run, each with a process and a share of its own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from actstore_extract.run.ranks import RankError, Share
from actstore_extract.run.signals import terminated

__all__ = ["Rank", "assigned", "run"]


@dataclass(frozen=True)
class Rank:
    """A process: its share of the run, and the device that it has for itself."""

    share: Share
    device: str

    @property
    def words(self) -> list[str]:
        """As options of the command."""
        return ["--share", f"{self.share.number}/{self.share.of}", "--device", self.device]


def assigned(n: int, share: Share, device: str, n_gpus: int) -> list[Rank]:
    """`n` ranks that part a share of the run, each with a GPU of the `n_gpus` of this machine, or all on its CPU.

    Raises RankError for a device that is one of several, and for more devices than there are.

    >>> [rank.words for rank in assigned(2, Share(3, 4, "--share"), "cuda", 2)]
    [['--share', '5/8', '--device', 'cuda:0'], ['--share', '6/8', '--device', 'cuda:1']]
    """
    if device not in ("auto", "cuda", "cpu"):
        raise RankError(f"--device {device} is one device, and --devices {n} are several: cuda, cpu or auto")
    on_gpus = device == "cuda" or (device == "auto" and n_gpus > 0)
    if on_gpus and n > n_gpus:
        raise RankError(f"--devices {n}, and this machine has {n_gpus} GPUs: take {n_gpus or 'the CPU (--device cpu)'}")
    first, of = (share.number - 1) * n + 1, share.of * n
    return [Rank(Share(first + i, of, "--devices"), f"cuda:{i}" if on_gpus else "cpu") for i in range(n)]


def run(ranks: Sequence[Rank], words: Sequence[str], say: Callable[[str], None]) -> list[int]:
    """Run `actstore` with these words once for each rank, at once; returns the exit statuses, negative for a signal.

    What the first says goes to standard error as it is, with its progress, what the others say to `say`, each line with
    the number of the rank. A KeyboardInterrupt ends them between batches, and is raised when they have ended.
    """
    threads = str(max(1, (os.cpu_count() or 1) // len(ranks)))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    children, listening = [], []
    for number, rank in enumerate(ranks):
        child = subprocess.Popen(
            [sys.executable, "-m", "actstore", *words, *rank.words],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE if number else None,
            env=environment,
            text=True,
            errors="backslashreplace",
            start_new_session=True,  # a terminal's Ctrl-C comes through this process, once
        )
        children.append(child)
        if child.stderr is not None:
            thread = threading.Thread(target=_relay, args=(child.stderr, f"[{rank.share.number}] ", say), daemon=True)
            thread.start()
            listening.append(thread)
    try:
        with terminated():
            statuses = [child.wait() for child in children]
    except BaseException:
        for child in children:
            child.send_signal(signal.SIGTERM)
        for child in children:
            child.wait()
        raise
    for thread in listening:
        thread.join()
    return statuses


def _relay(stream: IO[str], before: str, say: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            say(f"{before}{line.rstrip()}")
