"""Executors of one's own that are not as they should be: what is said, in one line, and that nothing is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import polars as pl
import pytest

import actstore
from actstore.errors import ActstoreError, ActstoreWarning
from actstore_analyze.study import abroad, engines, executor
from actstore_analyze.study.executor import mapped
from two_sided import counted, make, squared


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return actstore.open(make(tmp_path_factory.mktemp("two") / "store"))


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(executor, "POLL", 0.05)


class Odd(Executor):
    """Does with each call what `does` makes of it, its number among them first."""

    def __init__(self, does):
        self.does, self.futures = does, []

    def submit(self, function, /, *arguments):
        future = Future()
        self.futures.append(future)
        return self.does(len(self.futures) - 1, future, partial(function, *arguments))

    def shutdown(self, wait=True, *, cancel_futures=False):
        pass


def after(does):
    """An executor that computes two units, and then does something else."""

    def one(number, future, call):
        if number > 1:
            return does(future, call)
        future.set_result(call())
        return future

    return Odd(one)


def answers(value):
    def does(future, _):
        future.set_result(value)
        return future

    return does


def raises(error):
    def does(future, _):
        future.set_exception(error)
        return future

    return does


def cancels(future, _):
    future.cancel()
    future.set_running_or_notify_cancel()
    return future


def refuses(*_):
    raise RuntimeError("cannot schedule new futures\nafter shutdown")


KEPT = "; 2 of 4 units are kept, and the same call goes on from there$"


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (answers(None), "a unit came back as None, not as what the function that was submitted returns"),
        (answers((3, "x86")), r"a unit came back as \(3, 'x86'\), not as"),
        (answers(pl.DataFrame({"a": range(99)})), "a unit came back as DataFrame, not as"),
        (lambda *_: 3, "its submit returns int, not a Future of concurrent.futures"),
        (refuses, "it fails with RuntimeError: cannot schedule new futures after shutdown"),
        (raises(ConnectionResetError(104, "reset")), r"it fails with ConnectionResetError: \[Errno 104\] reset"),
        (raises(ModuleNotFoundError("No module named 'actstore'")), "it fails with ModuleNotFoundError: No module"),
        (cancels, "a unit was cancelled there"),
    ],
)
def test_what_an_engine_does_instead_is_one_line(store, tmp_path, does, said):
    """And what it had done is kept: the same call, elsewhere, does the rest."""
    units = [(tmp_path / "marks", number) for number in range(4)]
    with pytest.raises(ActstoreError, match=f"^Odd: {said}.*{KEPT}") as told:
        mapped(store, counted, units, executor=after(does))
    assert "\n" not in str(told.value)
    with pytest.warns(ActstoreWarning, match="2 of 4 units were done by a call that was interrupted"):
        assert [one["number"][0] for one in mapped(store, counted, units)] == [*range(4)]
    assert sorted((tmp_path / "marks").read_text().split()) == list("0123")


class UnmadeError(Exception):
    """Pickled, it cannot be made again: that breaks a pool of processes for all."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class UnsentError(Exception):
    """It cannot be pickled."""

    def __init__(self, what):
        super().__init__(what)
        self.lock = threading.Lock()


def failing(_, unit):
    if unit == "unmade":
        raise UnmadeError("one", "two")
    if unit == "unsent":
        raise UnsentError("nowhere")
    if unit == "exit":
        sys.exit(3)
    if unit == "own":
        raise ActstoreError("role 'eoi': nothing there")
    raise KeyError("word")


def test_what_a_unit_raises_comes_back(store):
    """As it is, or in words where another process could not make it again; never as a fault of the engine."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for unit, kind, said in (
            ("unmade", RuntimeError, "UnmadeError: one and two"),
            ("unsent", RuntimeError, "UnsentError: nowhere"),
            ("exit", SystemExit, "3"),
            ("own", ActstoreError, "role 'eoi': nothing there"),
            ("key", KeyError, "word"),
        ):
            with pytest.raises(kind, match=said) as told:
                mapped(store, failing, [unit], executor=pool)
            notes = getattr(told.value, "__notes__", [])
            assert ["in failing\n" in note for note in notes] == ([] if unit == "own" else [True])
        assert mapped(store, squared, [3], executor=pool) == [(3, 9)]


def test_silence_is_said_and_ends(store, tmp_path, monkeypatch, capsys):
    """Sparingly: again when it lasts twice as long. What was done is on the disk by then."""
    monkeypatch.setattr(engines, "QUIET", 0.1)
    units = [(tmp_path / "marks", number) for number in range(4)]

    def late(future, call):
        threading.Timer(0.4, lambda: future.set_result(call())).start()
        return future

    assert len(mapped(store, counted, units, executor=after(late))) == 4
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[0] == (
        "actstore: Odd: nothing has come back for 0 s; 2 of 4 units are kept: wait on, or stop it (Ctrl-C), and the "
        "same call goes on from there"
    )


def test_silences_are_said_more_and_more_sparingly(monkeypatch):
    """Of 60 s first; whatever comes meanwhile, then of 120, 240, ..."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    silence, said = engines.Silence(), []
    for second in range(1, 3600):
        now[0] = second
        if second == 100:
            silence.end()
        if line := silence.said():
            said.append((second, line))
    assert [second for second, _ in said] == [60, 220, 340, 580, 1060, 2020]
    assert said[0][1] == "nothing has come back for 1 min 0 s"


def test_nothing_is_said_where_values_come(store, monkeypatch, capsys):
    monkeypatch.setattr(engines, "QUIET", 0.3)
    with ThreadPoolExecutor(1) as pool:
        assert len(mapped(store, squared, range(20), executor=pool)) == 20
    assert capsys.readouterr().err == ""


WAITING = """
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
import pathlib, time

def rest(*_):
    pathlib.Path("began").touch()
    time.sleep(60)

class Resting:
    def submit(self, function, /, *arguments):
        return super().submit(rest)

class Threads(Resting, ThreadPoolExecutor): pass
class Processes(Resting, ProcessPoolExecutor): pass

def threads():
    return Threads(1)

def processes():
    return Processes(1, get_context("spawn"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_an_interruption_does_not_wait_for_what_never_comes(store, tmp_path, kind):
    (tmp_path / "mine.py").write_text(WAITING)
    words = ["gap", str(store.path), "--force", "--executor", f"mine:{kind}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])}
    command = [sys.executable, "-m", "actstore", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as running:
        while not (tmp_path / "began").exists() and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert running.wait(30) == 130
        assert time.monotonic() - began < 20
        assert running.stderr.read().splitlines()[-1] == "actstore: interrupted"


def test_who_leaves_calls_behind_does_not_wait_for_them_at_the_end(store, monkeypatch):
    """Of an executor that was made here; one that came from the caller is the caller's."""
    left = []
    monkeypatch.setattr("actstore.process.leave", lambda: left.append(1))
    monkeypatch.setattr(engines, "_made", lambda _: after(answers(None)))
    for given, times in (("mine:odd", 1), (after(answers(None)), 1)):
        with pytest.raises(ActstoreError, match="came back as None"):
            mapped(store, squared, [1, 2, 3], executor=given)
        assert len(left) == times
    monkeypatch.setattr(engines, "_made", lambda _: ThreadPoolExecutor(1))
    assert mapped(store, squared, [1], executor="mine:pool") == [(3, 1)]
    assert len(left) == 1
    program = (
        "import threading, time; from actstore import process; process.claim(); process.leave(); "
        "threading.Thread(target=time.sleep, args=(60,)).start(); process.finish(7)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 7


def test_a_call_elsewhere_tells_a_value_from_a_failure(store):
    versions, place, state, work = abroad.call(squared, store, 3)
    assert abroad.run(versions, place, state, work).value == (3, 9)
    found = abroad.run({**versions, "numpy": "0"}, place, state, work)
    assert isinstance(found.error, ActstoreError)
    assert "has numpy" in str(found.error)
