"""The same function over many units, here or in a pool of processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from actstore.errors import ActstoreError
from actstore.progress import bar
from actstore.store import Store
from actstore.store import open as open_store

__all__ = ["mapped"]

T = TypeVar("T")

_opened: dict[Path, Store] = {}  # of a worker process


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
    executor: whose processes do it instead, here or on other machines that see the store at the same path.
    """
    with bar(len(units), "units") as progress, _map(store, jobs, len(units), executor) as over:
        found = []
        for value in over(function, units):
            found.append(value)
            progress.advance()
    return found


@contextmanager
def _map(store: Store, jobs: int, count: int, executor: Executor | None) -> Iterator[Callable[..., Iterator[Any]]]:
    if executor is not None:
        yield _over(executor, store)
        return
    workers = min(jobs, count)
    if workers <= 1:
        yield lambda function, units: (function(store, unit) for unit in units)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of running threads
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(threads,))
    try:
        yield _over(pool, store)
    except BrokenProcessPool:
        raise ActstoreError("a worker process died, for lack of memory perhaps; try fewer --jobs") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _over(executor: Executor, store: Store) -> Callable[..., Iterator[Any]]:
    return lambda function, units: executor.map(partial(_in_worker, function, store.path, store.state), units)


def _begin(threads: int) -> None:
    """A worker's first act: its share of the threads."""
    import faiss
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    faiss.omp_set_num_threads(threads)
    threadpool_limits(threads)


def _in_worker(function: Callable[[Store, Any], T], path: Path, state: str, unit: Any) -> T:
    """The value of a unit, from this process's own view of the store; a worker may outlive what the store held."""
    if path not in _opened or _opened[path].state != state:
        _opened[path] = open_store(path)
    return function(_opened[path], unit)
