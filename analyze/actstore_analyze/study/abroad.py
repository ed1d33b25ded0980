"""Abroad: what a process that somebody else began, here or on another machine, does for one unit of a measure."""

import pickle
import platform
import threading
import traceback
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore.store import open as open_store

__all__ = ["Call", "Done", "Failed", "call", "run"]

Call = tuple[dict[str, str], str, str, bytes]
COUNTED = (
    "actstore",
    "numpy",
    "polars",
    "faiss-cpu",
    "hdbscan",
    "scikit-learn",
    "scipy",
)  # what tables are computed with


class Done(NamedTuple):
    """The value of a unit, and the kind of CPU it was computed on."""

    value: Any
    cpu: str


class Failed(NamedTuple):
    """Why a unit has no value: what was raised there, which is an answer: what an engine raises is of the engine."""

    error: BaseException


_own = threading.local()  # a thread's stores: those of one store share a connection


def call(function: Callable[[Store, Any], Any], store: Store, unit: Any) -> Call:
    """What `run` is given to have function(store, unit)."""
    return _versions(), store.place, store.state, pickle.dumps((function, unit))


def run(versions: dict[str, str], place: str, state: str, work: bytes) -> Done | Failed:
    """What became of a unit.

    ActstoreError is why where this process has other versions, or does not see the store as it was asked of.
    """
    try:
        return _done(versions, place, state, work)
    except ActstoreError as error:
        return Failed(error)
    except (Exception, SystemExit) as error:
        error.add_note(f"on {platform.node()}:\n{traceback.format_exc()}")
        return Failed(_sendable(error))


def _done(versions: dict[str, str], place: str, state: str, work: bytes) -> Done:
    own, host = _versions(), platform.node()
    if others := [name for name in COUNTED if own[name] != versions[name]]:
        told = ", ".join(f"{name} {own[name] or 'is missing'} ({versions[name]} here)" for name in others)
        raise ActstoreError(f"a worker on {host} has {told}; tables would not be the same: install what is here there")
    function, unit = pickle.loads(work)  # noqa: S301  (of the process that began this one, or may run anything in it)
    kind = _settled()
    return Done(function(_store(place, state, host), unit), kind)


def _sendable(error: BaseException) -> BaseException:
    """The error, or its words where another process could not make it again: that would end the way back for all."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):  # noqa: S301  (made here)
            return error
    except Exception:  # noqa: S110  (of any library's classes)
        pass
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.__notes__ = error.__notes__
    return told


def _store(place: str, state: str, host: str) -> Store:
    known: dict[str, Store] = _own.__dict__.setdefault("stores", {})
    if place not in known or known[place].state != state:
        try:
            known[place] = open_store(place)
        except ActstoreError as error:
            raise ActstoreError(
                f"a worker on {host} does not see the store: {error}; it must be at the same path there, or at a URL"
            ) from None
        if known[place].state != state:
            raise ActstoreError(
                f"{place}: a worker on {host} sees it in another state; wait for the file system, or ask again"
            )
    return known[place]


@cache
def _versions() -> dict[str, str]:
    return {name: _version(name) for name in COUNTED}


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return ""


@cache
def _settled() -> str:
    """The kind of CPU that BLAS sees; from now on this process computes with one thread: there is one a core."""
    import faiss
    from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

    faiss.omp_set_num_threads(1)
    threadpool_limits(1)
    return ", ".join(sorted({str(one["architecture"]) for one in threadpool_info() if one.get("architecture")}))
