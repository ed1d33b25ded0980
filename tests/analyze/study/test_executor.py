"""The same function over many units, here or in other processes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import actstore
import making
from actstore.errors import ActstoreError, ActstoreWarning
from actstore_analyze.study.executor import mapped
from two_sided import committed, dying, killed_once, make, squared


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return actstore.open(make(tmp_path_factory.mktemp("two") / "store"))


@pytest.fixture(autouse=True)
def forks():
    """Here processes begin as a user's do."""


@pytest.mark.parametrize("jobs", [1, 2])
def test_values_in_the_order_of_the_units(store, jobs):
    assert mapped(store, squared, [3, 1, 2], jobs=jobs) == [(3, 9), (3, 1), (3, 4)]
    assert mapped(store, squared, [], jobs=jobs) == []


def test_one_unit_needs_no_process(store):
    assert mapped(store, lambda _, unit: unit, [7], jobs=8) == [7]


def test_another_executor_gives_the_same_and_sees_a_store_that_has_grown(tmp_path):
    grown = making.create(tmp_path / "s", 2)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for number in range(2):
            grown.write(number, **making.content(number))
            opened = actstore.open(grown.path)
            assert mapped(opened, committed, [1, 2], executor=pool) == [(number + 1, 1), (number + 1, 2)]
        assert mapped(opened, committed, [], executor=pool) == []


def test_processes_see_the_store_as_it_was_opened(tmp_path):
    """What is committed while a measure runs is in none of its units: the result is saved as that of the old state."""
    growing = making.create(tmp_path / "s", 2)
    growing.write(0, **making.content(0))
    opened = actstore.open(growing.path)
    growing.write(1, **making.content(1))
    assert mapped(opened, committed, [1, 2], jobs=2) == [(1, 1), (1, 2)]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(ActstoreError, match="in another state"):
        mapped(opened, committed, [1, 2], executor=pool)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a worker process died")
def test_a_unit_that_ends_its_process_again_is_said(store):
    with pytest.raises(ActstoreError, match="unit 1 of 2 in hand alone died, too.*select fewer rows"):
        mapped(store, dying, [1, 2], jobs=2)


def test_a_process_that_is_killed_loses_nothing(store, tmp_path):
    units = [(tmp_path / "killed", number) for number in range(4)]
    with pytest.warns(ActstoreWarning, match=r"a worker process died.*the \d of 4 units that are left"):
        assert mapped(store, killed_once, units, jobs=2) == [0, 1, 4, 9]


@pytest.mark.slow
def test_an_interruption_ends_the_workers(store, tmp_path):
    """Though each has a unit in hand, which takes ten minutes, and hears Ctrl-C as all that a terminal runs."""
    units = [tmp_path / "a", tmp_path / "b"]
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; from pathlib import Path; sys.path[:0] = {sys.path!r}\n"
        "import actstore\nfrom actstore_analyze.study.executor import mapped\nfrom two_sided import resting\n"
        "if __name__ == '__main__':\n"
        f"    mapped(actstore.open({str(store.path)!r}), resting, [*map(Path, {[*map(str, units)]!r})], jobs=2)\n"
    )
    asked = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not all(unit.exists() for unit in units):
        assert asked.poll() is None, asked.communicate()
        time.sleep(0.1)
    os.killpg(asked.pid, signal.SIGINT)
    said = asked.communicate(timeout=20)[1]
    assert said.endswith("\nKeyboardInterrupt\n")
    assert said.count("Traceback") == 1
    assert "resource_tracker" not in said


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(store, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import actstore\nfrom actstore_analyze.study.executor import mapped\nfrom two_sided import squared\n"
        f"mapped(actstore.open({str(store.path)!r}), squared, [1, 2], jobs=2)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert "no worker process could begin; if this is a script, keep what it does inside if __name__" in done.stderr
    assert done.stderr.count("Traceback") == 1  # the script's own
