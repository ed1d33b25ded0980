"""The same function over many units, here or in a pool of processes."""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

from actstore.errors import ActstoreError, ActstoreWarning
from actstore.progress import bar
from actstore.store import Store
from actstore.store import open as open_store

__all__ = ["mapped"]

T = TypeVar("T")
Value = tuple[int, Any]  # of the unit at that index

_opened: dict[str, Store] = {}  # of a worker process


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
    executor: Executor | None = None,
) -> list[T]:
    """function(store, unit) of each unit, in their order, by `jobs` processes that open the store themselves.

    The function and the units are pickled for other processes; a module's function and a method of a dataclass can be.
    Where a process dies, the units that are left are done one at a time, which is warned of; raises ActstoreError where
    one dies again.
    executor: whose processes do it instead, here or on other machines that see the store at the same path.
    """
    work = partial(_in_worker, function, store.place, store.state)
    if executor is not None:
        values: Iterator[Value] = enumerate(executor.map(work, units))
    elif min(jobs, len(units)) > 1:
        values = _shared(work, units, min(jobs, len(units)))
    else:
        values = ((index, function(store, unit)) for index, unit in enumerate(units))
    found: dict[int, T] = {}
    with bar(len(units), "units") as progress:
        for index, value in values:
            found[index] = value
            progress.advance()
    return [found[index] for index in range(len(units))]


def _shared(work: Callable[[Any], Any], units: Sequence[Any], workers: int) -> Iterator[Value]:
    """Values from several processes; from one, which has all of the memory, what is left when one of them died."""
    left = dict(enumerate(units))
    try:
        for index, value in _pooled(work, dict(left), workers):
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
        for index, value in _pooled(work, dict(left), 1):
            del left[index]
            yield index, value
    except _DiedError:
        raise ActstoreError(
            f"the process that had unit {len(units) - len(left) + 1} of {len(units)} in hand alone died, too; for lack "
            "of memory perhaps: select fewer rows, roles or layers, or use a machine with more"
        ) from None


def _pooled(work: Callable[[Any], Any], units: Mapping[int, Any], workers: int) -> Iterator[Value]:
    """Values as they are done; then _DiedError, where a worker died."""
    if not units:
        return
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker that imports a script of no guard
        sys.exit(1)
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of running threads
    began = context.Event()
    threads = max(1, (os.cpu_count() or 1) // workers)
    others = {*multiprocessing.active_children()}
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(threads, began))
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
    except KeyboardInterrupt:  # a unit may take minutes, and C does not listen
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


def _begin(threads: int, began: Event) -> None:
    """A worker's first act: its share of the threads; locks of its own get no names, which it could leave behind."""
    import faiss
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    multiprocessing.set_start_method("fork", force=True)  # numcodecs makes a lock in the usual way of starting
    faiss.omp_set_num_threads(threads)
    threadpool_limits(threads)
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of numbers too large; it would be said by each
    began.set()


def _in_worker(function: Callable[[Store, Any], T], path: str, state: str, unit: Any) -> T:
    """The value of a unit, from this process's own view of the store; a worker may outlive what the store held."""
    if path not in _opened or _opened[path].state != state:
        _opened[path] = open_store(path)
    return function(_opened[path], unit)
