"""The same function over many units: here, in a pool of processes, or in an engine's."""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

from actstore.errors import ActstoreError, ActstoreWarning
from actstore.progress import bar
from actstore.store import Store
from actstore_analyze.study import abroad, engines
from actstore_analyze.study.kept import Kept

__all__ = ["mapped", "streamed"]

PROCESSES = multiprocessing.get_context("spawn")  # a fork would copy the locks of running threads
POLL = 2.0  # seconds after which an engine is asked whether it goes on
T = TypeVar("T")
Value = tuple[int, Any]  # of the unit at that index

_opened: list[Store] = []  # of a worker process: the one whose units it has


class _DiedError(Exception):
    """A worker process ended while it had a unit in hand; `began`: after one had come as far as to take units."""

    def __init__(self, *, began: bool) -> None:
        super().__init__()
        self.began = began


def mapped(
    store: Store,
    function: Callable[[Store, Any], T],
    units: Sequence[Any],
    *,
    jobs: int = 1,
    executor: Executor | str | None = None,
) -> list[T]:
    """function(store, unit) of each unit, in their order, by `jobs` processes that see the store as it was opened.

    What was done before an error or an interruption is kept, if it is a table, a text or arrays by name, and the same
    call goes on.

    The function and the units are pickled for other processes; a module's function and a method of a dataclass can be.
    Where a process dies, the units that are left are done one at a time, which is warned of; raises ActstoreError where
    one dies again.
    executor: whose processes do it instead, here or on other machines that see the store at the same path; or a name,
    as `engines` has them. Raises ActstoreError where they go, and where they would not have the same table.
    """
    return list(streamed(store, function, units, jobs=jobs, executor=executor))


def streamed(
    store: Store,
    function: Callable[[Store, Any], T],
    units: Sequence[Any],
    *,
    jobs: int = 1,
    executor: Executor | str | None = None,
) -> Generator[T, None, None]:
    """As `mapped`, each value in its turn, as soon as it and all before it are done; of a call that takes long those
    that wait for their turn lie on the disk.
    """
    if executor == engines.PROCESSES:
        jobs, executor = jobs if jobs > 1 else os.cpu_count() or 1, None
    elif executor is not None and jobs > 1:
        raise ActstoreError("--jobs are processes of this machine; an executor has its own workers")
    turn = 0
    with Kept(store, function, units) as kept, bar(len(units), "units") as progress:
        if kept.recalled:
            warnings.warn(
                f"{kept.recalled} of {len(units)} units were done by a call that was interrupted",
                ActstoreWarning,
                stacklevel=2,
            )
            progress.advance(kept.recalled)
        left = {index: unit for index, unit in enumerate(units) if index not in kept}

        def say(text: str) -> None:
            kept.write()
            progress.say(
                f"actstore: {text}; {kept.count} of {len(units)} units are kept: wait on, or stop it (Ctrl-C), and the "
                "same call goes on from there"
            )

        try:
            for index, value in _values(store, function, left, jobs, executor, say):
                kept.add(index, value)
                progress.advance()
                while turn in kept:
                    yield value if turn == index else kept.value(turn)
                    turn += 1
        except engines.EngineError as error:
            kept.write()
            raise ActstoreError(
                f"{error}; {kept.count} of {len(units)} units are kept, and the same call goes on from there"
            ) from None
        for number in range(turn, len(units)):
            yield kept.value(number)


def _values(
    store: Store,
    function: Callable[[Store, Any], Any],
    units: dict[int, Any],
    jobs: int,
    executor: Executor | str | None,
    say: Callable[[str], None],
) -> Iterator[Value]:
    if executor is not None and units:
        calls = {index: abroad.call(function, store, unit) for index, unit in units.items()}
        return _elsewhere(executor, calls, say)
    if min(jobs, len(units)) > 1:
        return _shared(store, partial(_in_worker, function), units, min(jobs, len(units)))
    return ((index, function(store, unit)) for index, unit in units.items())


def _elsewhere(
    executor: Executor | str, calls: Mapping[int, abroad.Call], say: Callable[[str], None]
) -> Iterator[Value]:
    """Values from an engine's workers as they are done; it is said where these are of several kinds, and where nothing
    comes for long.
    """
    kinds: set[str] = set()
    with engines.opened(executor) as engine:
        futures: dict[Future[Any], int] = {}
        try:
            try:
                for index, call in calls.items():
                    futures[engine.submit(call)] = index
            except engines.EngineError:
                yield from _answers(engine, futures, [one for one in futures if one.done()], kinds)
                raise
            left, silence = {*futures}, engines.Silence()
            while left:
                done, left = wait(left, timeout=POLL, return_when=FIRST_COMPLETED)
                yield from _answers(engine, futures, done, kinds)
                if done:
                    silence.end()
                    continue
                engine.check()
                if said := silence.said():
                    say(f"{engine.name}: {said}")
        finally:
            for future in futures:
                future.cancel()
    if len(kinds) > 1:
        warnings.warn(
            f"workers have CPUs of several kinds ({'; '.join(sorted(kinds))}): means and sums may differ in their last "
            "digits from those of one kind",
            ActstoreWarning,
            stacklevel=2,
        )


def _answers(
    engine: engines.Engine, futures: Mapping[Future[Any], int], done: Iterable[Future[Any]], kinds: set[str]
) -> Iterator[Value]:
    """The values of futures that are done, whose kinds of CPU are added; then the first error, which loses none."""
    errors: list[BaseException] = []
    for future in sorted(done, key=futures.__getitem__):
        try:
            found = engine.answer(future)
        except (Exception, SystemExit) as error:
            errors.append(error)
            continue
        kinds.add(found.cpu)
        yield futures[future], found.value
    if errors:
        raise errors[0]


def _shared(store: Store, work: Callable[[Any], Any], units: Mapping[int, Any], workers: int) -> Iterator[Value]:
    """Values from several processes; from one, which has all of the memory, what is left when one of them died."""
    left = dict(units)
    try:
        for index, value in _pooled(store, work, dict(left), workers):
            del left[index]
            yield index, value
    except _DiedError as died:
        if not died.began:
            raise ActstoreError(
                "no worker process could begin; if this is a script, keep what it does inside if __name__ == "
                "'__main__': (each process imports the script), or take one job"
            ) from None
        warnings.warn(
            f"a worker process died, for lack of memory perhaps; the {len(left)} of {len(units)} units that are left "
            "are done one at a time",
            ActstoreWarning,
            stacklevel=2,
        )
    try:
        for index, value in _pooled(store, work, dict(left), 1):
            del left[index]
            yield index, value
    except _DiedError:
        raise ActstoreError(
            f"the process that had unit {len(units) - len(left) + 1} of {len(units)} in hand alone died, too; for lack "
            "of memory perhaps: select fewer rows, roles or layers, or use a machine with more"
        ) from None


def _pooled(store: Store, work: Callable[[Any], Any], units: Mapping[int, Any], workers: int) -> Iterator[Value]:
    """Values as they are done; then _DiedError, where a worker died."""
    if not units:
        return
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker that imports a script of no guard
        sys.exit(1)
    began = PROCESSES.Event()
    threads = max(1, (os.cpu_count() or 1) // workers)
    others = {*multiprocessing.active_children()}
    pool = ProcessPoolExecutor(workers, PROCESSES, initializer=_begin, initargs=(threads, began, store))
    broken = False
    try:
        futures = _submitted(pool, work, units)
        for future in as_completed(futures):
            try:
                value = future.result()
            except BrokenProcessPool:
                broken = True
                continue
            yield futures[future], value
    except BrokenProcessPool:  # before all of them were handed over
        broken = True
    except (KeyboardInterrupt, GeneratorExit):  # a unit may take minutes, and C does not listen
        for child in {*multiprocessing.active_children()} - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    if broken:
        raise _DiedError(began=began.is_set())


def _submitted(pool: Executor, work: Callable[[Any], Any], units: Mapping[int, Any]) -> dict[Future[Any], int]:
    """The futures, each with its index; Ctrl-C, which a terminal sends to workers too, is heard here alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes that begin meanwhile keep it so
    try:
        return {pool.submit(work, unit): index for index, unit in units.items()}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(threads: int, began: Event, store: Store) -> None:
    """A worker's first act: its share of the threads, and the store as it was when its caller opened it.

    Locks of its own get no names, which it could leave behind.
    """
    import faiss
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    multiprocessing.set_start_method("fork", force=True)  # numcodecs makes a lock in the usual way of starting
    faiss.omp_set_num_threads(threads)
    threadpool_limits(threads)
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of numbers too large; it would be said by each
    _opened[:] = [store]
    began.set()


def _in_worker(function: Callable[[Store, Any], T], unit: Any) -> T:
    """The value of a unit, from this process's own view of the store."""
    return function(_opened[0], unit)
