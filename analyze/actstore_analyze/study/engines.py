"""Engines: what computes the units of a measure elsewhere, each a concurrent.futures.Executor by a name."""

import importlib
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from actstore import process
from actstore.errors import ActstoreError
from actstore.format.given import short
from actstore.progress import duration
from actstore_analyze.study import abroad

__all__ = ["Engine", "EngineError", "Silence", "checked", "opened"]

PROCESSES = "processes"
DASK = re.compile(r"dask://(?P<address>[^/\s]+:\d+)")
FUNCTION = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")
CONNECTING = 10.0  # seconds
LONGEST = 300  # characters of what an engine says
ALONE = 60.0  # seconds without a worker, after which nobody waits on
QUIET = 60.0  # seconds without an answer, after which that is said


class EngineError(ActstoreError):
    """Units cannot be computed there any more; those that were done are."""


def checked(name: str) -> str:
    """The name of an engine; raises ActstoreError for what is none."""
    if name != PROCESSES and not DASK.fullmatch(name) and not FUNCTION.fullmatch(name):
        raise ActstoreError(f"'{name}' is no executor: processes, dask://HOST:PORT or MODULE:FUNCTION")
    return name


class Engine:
    """An executor, and what is said of it where units are lost."""

    errors: tuple[type[BaseException], ...] = (Exception,)  # of a future: none of these is the call's own

    def __init__(self, name: str, executor: Executor) -> None:
        self.name, self.executor = name, executor

    def submit(self, call: abroad.Call) -> "Future[Any]":
        """The future of a call's answer; raises EngineError where it is not taken."""
        try:
            future: object = self.executor.submit(abroad.run, *call)
        except Exception as error:
            raise EngineError(f"{self.name}: {self.said(error)}") from error
        if not isinstance(future, Future):
            raise EngineError(
                f"{self.name}: its submit returns {type(future).__name__}, not a Future of concurrent.futures"
            )
        return future

    def answer(self, future: "Future[Any]") -> abroad.Done:
        """What came of a call; raises what it raised, and EngineError where that is not known."""
        try:
            found: object = future.result()
        except self.errors as error:
            raise EngineError(f"{self.name}: {self.said(error)}") from error
        if isinstance(found, abroad.Failed):
            raise found.error
        if not isinstance(found, abroad.Done):
            raise EngineError(
                f"{self.name}: a unit came back as {short(found)}, not as what the function that was submitted returns"
            )
        return found

    def check(self) -> None:
        """Raise EngineError where nobody goes on."""

    def said(self, error: BaseException) -> str:
        """Why a unit was not done, in words."""
        if isinstance(error, CancelledError):
            return "a unit was cancelled there"
        text = " ".join(str(error).split())[:LONGEST]
        why = f"{type(error).__name__}{f': {text}' if text else ''}"
        return f"its workers have gone ({why})" if isinstance(error, BrokenExecutor) else f"it fails with {why}"


class Dask(Engine):
    """A scheduler of Dask's that is there already."""

    def __init__(self, name: str, client: Any) -> None:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        super().__init__(name, client.get_executor(pure=False))
        self.errors, self._lost = (*self.errors, FutureCancelledError), (FutureCancelledError, CancelledError)
        self._client, self._killed, self._seen = client, KilledWorker, time.monotonic()

    def check(self) -> None:
        """See Engine; workers that join later are waited for."""
        try:
            workers = self._client.scheduler_info()["workers"] if self._client.status == "running" else None
        except (OSError, TimeoutError, KeyError):
            workers = None
        if workers is None:
            raise EngineError(f"{self.name}: the scheduler was lost")
        if workers:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > ALONE:
            begin = f"dask worker {self.name.partition('//')[2]} --nthreads 1"
            raise EngineError(f"{self.name}: no worker for {ALONE:.0f} seconds; begin some: {begin}")

    def said(self, error: BaseException) -> str:
        """See Engine."""
        if isinstance(error, self._killed):
            return "a unit ended its worker again and again, for lack of memory perhaps; have fewer workers a machine"
        return "the scheduler was lost" if isinstance(error, self._lost) else super().said(error)


class Silence:
    """How long nothing has come back; it is said after QUIET, and again of silences of twice the length at least."""

    def __init__(self) -> None:
        self._since, self._next = time.monotonic(), QUIET

    def end(self) -> None:
        """Something came."""
        self._since = time.monotonic()

    def said(self) -> str:
        """What is said now, if anything is."""
        seconds = time.monotonic() - self._since
        if seconds < self._next:
            return ""
        self._next = 2 * seconds
        return f"nothing has come back for {duration(seconds)}"


@contextmanager
def opened(name: str | Executor) -> Iterator[Engine]:
    """The engine of a name, or of an executor that is the caller's, until the end; raises ActstoreError."""
    if isinstance(name, Executor):
        yield Engine(type(name).__name__, name)
    elif match := DASK.fullmatch(name):
        with _dask(name, match["address"]) as engine:
            yield engine
    else:
        executor = _made(name)
        try:
            yield Engine(name, executor)
        except BaseException:
            process.leave()
            with suppress(Exception):  # what went wrong before is what is said
                executor.shutdown(wait=False)
            raise
        executor.shutdown()


@contextmanager
def _dask(name: str, address: str) -> Iterator[Engine]:
    from distributed import Client

    with _quietly("distributed"):
        try:
            client: Any = Client(f"tcp://{address}", timeout=CONNECTING, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise ActstoreError(f"{name}: no scheduler of Dask answers there ({said})") from None
        try:
            yield Dask(name, client)
        finally:
            client.close(timeout=CONNECTING / 5)


def _made(name: str) -> Executor:
    """What MODULE:FUNCTION returns; modules of the working folder are found."""
    module, _, function = name.partition(":")
    sys.path.append(str(Path.cwd()))
    try:
        executor = getattr(importlib.import_module(module), function)()
    except Exception as error:  # any code of the user's
        raise ActstoreError(f"--executor {name}: {' '.join(str(error).split()) or type(error).__name__}") from error
    finally:
        sys.path.pop()
    if not isinstance(executor, Executor):
        raise ActstoreError(
            f"--executor {name}: returns {type(executor).__name__}, not an Executor of concurrent.futures"
        )
    return executor


@contextmanager
def _quietly(library: str) -> Iterator[None]:
    """Inside, a library's log and warnings are not shown: what goes wrong is said once, by us."""
    log = logging.getLogger(library)
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
