"""The command line against calls that nobody meant: options, SQL, recipes, tables, vectors, autoencoders, stores.

python tests/fuzz/commands.py [--calls 10000] [--seed 0] [--workers 2] [--first NUMBER] [--only NUMBER]

Each call is made of the seed and its number alone, and runs in a worker process that is watched. A status of the
table in the documents is right; an exception, a traceback or a panic on standard error, a process that ends, advice to
take an option that the command lacks, and a call beyond its time are faults: each is printed as it comes, with its seed
and number, and --only runs it again. How far this is, a line says each minute. What was interrupted (Ctrl-C, SIGTERM)
says what it found, and with which --first it goes on.
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "store"), str(HERE.parent.parent)]
from calls import Maker, prepare  # noqa: E402  (its folder is none of the package's)

SECONDS, PATIENCE = 90, 120  # for one call: of a processor, and with next to nothing of one
IDLE = 0.5  # seconds of a processor that threads may take that do nothing
GIGABYTES = 12  # of memory, for a worker
INTERRUPTED = 130


def work(calls: Connection, base: Path, seed: int) -> None:
    """Run the calls whose numbers come, each in a folder of its own; send how each ended."""
    os.environ.update(
        HF_HUB_OFFLINE="1", PIP_NO_INDEX="1", XDG_CACHE_HOME=str(base / "cache"), TOKENIZERS_PARALLELISM="false"
    )
    resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES * 2**30, resource.RLIM_INFINITY))
    import advice
    from actstore.commands import main
    from actstore.commands.statuses import Status

    said = os.open(base / f"said-{os.getpid()}", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(said, number)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", errors="backslashreplace")
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0, closefd=False), encoding="utf-8", errors="backslashreplace")
    faulthandler.enable()
    while (number := calls.recv()) is not None:
        os.ftruncate(said, 0)
        os.lseek(said, 0, os.SEEK_SET)
        with tempfile.TemporaryDirectory(dir=base, prefix="call-") as folder:
            os.chdir(folder)
            words = Maker(f"{seed}/{number}", base, Path(folder)).call()
            calls.send(words)
            try:
                status = main.run(words)
                fault = "" if status in {*Status} else f"ended with status {status}"
            except BaseException:
                status, fault = -1, traceback.format_exc()
            sys.stdout.flush()
            text = os.pread(said, 10**6, 0).decode(errors="replace")
            if not fault and ("Traceback (most recent" in text or "panicked at" in text):
                fault = text[-3000:]
            elif not fault and (lacking := advice.strange(text, advice.called(words)) - _given(words)):
                fault = f"it has no {', '.join(lacking)}: {text[-3000:]}"
            os.chdir(base)
        calls.send((status, fault))


def _given(words: list[str]) -> set[str]:
    """Options that the words name, which an error may name, too."""
    import advice

    return {*advice.OPTION.findall(" ".join(words))}


class Worker:
    """A process that runs calls, watched; a new one when it was ended."""

    def __init__(self, base: Path, seed: int) -> None:
        self.base, self.seed, self.number, self.words, self.before, self.last = base, seed, -1, ["?"], 0.0, (0.0, 0.0)
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, child = context.Pipe()
        self.process = context.Process(target=work, args=(child, self.base, self.seed))
        self.process.start()
        child.close()

    def give(self, number: int | None) -> bool:
        """Let it run the call of this number; without one there is nothing more to do."""
        if number is None:
            return False
        self.number, self.words, self.before = number, ["?"], self.computed()
        self.last = self.before, time.monotonic()
        self.pipe.send(number)
        return True

    def end(self) -> None:
        """Let it end, or make it."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(10)
        self.process.kill()

    def ended(self) -> tuple[int, str, float] | None:
        """How the call ended, and the seconds of a processor that it took; None while it runs."""
        try:
            while self.pipe.poll():
                got = self.pipe.recv()
                if isinstance(got, tuple):
                    return *got, self.computed() - self.before
                self.words = got
        except (EOFError, OSError):  # it ended, between two words perhaps
            self.process.join()
            code = self.process.exitcode
            self.start()
            return -1, f"the process ended: {code}", 0.0
        now = self.computed()
        if now > self.last[0] + IDLE:
            self.last = now, time.monotonic()
        computed, waited = now - self.before, time.monotonic() - self.last[1]
        if computed < SECONDS and waited < PATIENCE:
            return None
        self.process.kill()
        self.process.join()
        self.start()
        return -1, f"beyond its time: it computed for {computed:.0f} s and waits since {waited:.0f}", computed

    def computed(self) -> float:
        """Seconds of a processor that the worker has had, and those that it started."""
        return sum(map(seconds_of, [self.process.pid, *children_of(self.process.pid)]))


class Found:
    """What calls came to."""

    def __init__(self, seed: int) -> None:
        self.seed, self.begin, self.calls, self.faults = seed, time.monotonic(), 0, 0
        self.statuses: collections.Counter[int] = collections.Counter()
        self.took: dict[str, list[float]] = collections.defaultdict(list)

    def add(self, worker: Worker, status: int, fault: str, seconds: float) -> None:
        """How a call ended; a fault is printed."""
        self.calls += 1
        self.statuses[status] += 1
        self.took[worker.words[0]].append(seconds)
        if fault:
            self.faults += 1
            print(f"FAULT seed {self.seed} call {worker.number}: {worker.words}\n{fault}\n", flush=True)

    def say(self) -> None:
        """All of them in lines."""
        said = ", ".join(f"{count} ended {status}" for status, count in sorted(self.statuses.items()))
        whole = time.monotonic() - self.begin
        print(f"seed {self.seed}: {self.calls} calls, {said}, {self.faults} faults, {whole:.0f} s")
        for name, each in sorted(self.took.items(), key=lambda one: -sum(one[1])):
            print(f"  {name}: {len(each)} calls, {sum(each):.0f} s of a processor, at most {max(each):.1f}", flush=True)


def children_of(pid: int | None) -> list[int]:
    """Processes that run and were started by one, or by those."""
    try:
        own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return own + [grandchild for child in own for grandchild in children_of(child)]


def seconds_of(pid: int | None) -> float:
    """Seconds of a processor that a process has had, and those of its children that ended."""
    try:
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, times[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--calls", type=int, default=10_000)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--workers", type=int, default=2)
    asked.add_argument("--first", type=int, default=0, help="Go on with the call of this number.")
    asked.add_argument("--only", type=int, help="the call of this number alone")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="actstore-fuzz-") as scratch:
        sys.exit(fuzz(options, Path(scratch)))


def fuzz(options: argparse.Namespace, base: Path) -> int:
    """Run the calls; returns how many faults were found, at most 100, or the status of what was interrupted."""
    prepare(base)
    todo = iter([options.only] if options.only is not None else range(options.first, options.calls))
    found = Found(options.seed)
    workers = [Worker(base, options.seed) for _ in range(1 if options.only is not None else options.workers)]
    try:
        run(workers, todo, found)
    except KeyboardInterrupt:
        left = min(worker.number for worker in workers if worker.number >= 0)
        print(f"interrupted; --first {left} goes on", flush=True)
        return INTERRUPTED
    finally:
        for worker in workers:
            worker.end()
        found.say()
    return min(found.faults, 100)


def run(workers: list[Worker], todo: Iterator[int], found: Found) -> None:
    """Give each worker a call after the other; a line a minute says how far this is."""
    busy, said = [worker for worker in workers if worker.give(next(todo, None))], time.monotonic()
    while busy:
        wait([worker.pipe for worker in busy], 1)
        if time.monotonic() > said + 60:
            said = time.monotonic()
            print(f"{said - found.begin:.0f} s: {found.calls} calls, {found.faults} faults", flush=True)
        for worker in list(busy):
            if (done := worker.ended()) is None:
                continue
            found.add(worker, *done)
            if not worker.give(next(todo, None)):
                busy.remove(worker)


def interrupted(*_: object) -> None:
    """SIGTERM is Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    main()
