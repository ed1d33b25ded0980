"""What a user of a store at a URL waits for: a silent server is told of, Ctrl-C is heard, a cleared cache is filled."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import numpy as np
import pytest

import actstore
import leading
from actstore.errors import ActstoreError
from actstore.maintain.pushing import push
from actstore.read import mirror
from actstore.storage import at_once, objects
from buckets import Memory, bucket
from leading import URL


class Late(Memory):
    """Does what it is asked for `seconds` later, or when `over`."""

    seconds = 0.0
    over = threading.Event()

    def answer(self, method, key, asked, body):
        self.over.wait(self.seconds)
        return super().answer(method, key, asked, body)


@pytest.fixture
def late(tmp_path, monkeypatch):
    monkeypatch.setattr(Late, "over", threading.Event())
    with bucket(behind=Late) as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        yield found
        Late.over.set()


def test_a_server_that_says_nothing_is_not_waited_for_long(late, monkeypatch):
    monkeypatch.setattr(Late, "seconds", 30.0)
    monkeypatch.setattr(objects, "SILENT", timedelta(seconds=0.2))
    monkeypatch.setattr(objects, "RETRIES", {"max_retries": 0})
    for url in (URL, f"{late.url}/b/runs/s"):
        began = time.monotonic()
        with pytest.raises(ActstoreError, match=f"{url}/actstore.json: .*; nothing is known of what is there"):
            actstore.open(url)
        assert time.monotonic() - began < 5


def test_what_is_sent_may_take_its_time(made, late, monkeypatch):
    """A server is silent until it has all of it."""
    push(made.path, URL)
    monkeypatch.setattr(Late, "seconds", 0.3)
    monkeypatch.setattr(objects, "SILENT", timedelta(seconds=0.1))
    monkeypatch.setattr(objects, "RETRIES", {"max_retries": 0})
    storage = objects.opened(URL)
    storage.write("sent", b"1")
    storage.create("made", b"2")
    with pytest.raises(ActstoreError, match=f"{URL}/sent: "):
        b"".join(storage.blocks("sent", 9))


ASKED = {
    "one": lambda storage: b"".join(storage.blocks("plan.parquet", 10**6)),
    "a list": lambda storage: storage.entries("commits"),
    "several": lambda storage: at_once.each(storage.entries, ["commits", "parts"] * 20),
}


@pytest.mark.parametrize("asked", ASKED)
def test_an_interruption_does_not_wait_for_an_answer(made, late, monkeypatch, asked):
    push(made.path, URL)
    storage = objects.opened(URL)
    monkeypatch.setattr(Late, "seconds", 30.0)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ASKED[asked](storage)
    assert time.monotonic() - began < 5


def test_a_command_that_was_interrupted_ends_at_once():
    """Python itself would wait for the threads of pools."""
    program = (
        "import threading, time; from actstore import process; process.claim(); "
        "threading.Thread(target=time.sleep, args=(60,)).start(); process.finish(process.INTERRUPTED)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 130


def test_several_at_once_are_in_order_and_the_first_error_is_raised():
    begun = []

    def tried(number):
        begun.append(number)
        time.sleep(0.02)
        if number in (3, 4):
            raise ValueError(number)
        return -number

    assert at_once.each(tried, range(3), 2) == [0, -1, -2]
    with pytest.raises(ValueError, match="3"):
        at_once.each(tried, range(100), 2)
    assert len(begun) < 20


@pytest.mark.parametrize("small", [0, 2**20])
def test_a_cache_that_is_cleared_while_a_store_is_open_is_filled_again(made, served, tmp_path, monkeypatch, small):
    """At any time; saved results, too, which were silently not there."""
    monkeypatch.setattr(mirror, "SMALL", small)
    store = actstore.open(URL)
    known = made.sql("from rows order by row_id")
    for _ in range(2):
        shutil.rmtree(tmp_path / "cache")
        assert store.sql("from rows order by row_id").equals(known)
        shutil.rmtree(tmp_path / "cache")
        np.testing.assert_array_equal(store.residual(known, layers=[0, 1, 2]), made.residual(known, layers=[0, 1, 2]))
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        assert [one.table()["n"].to_list() for one in store.results()] == [[1, 2]]
        served.took()
        store.results(), store.sql("from samples")
        assert served.took() == []


def test_a_cache_whose_folder_is_relative_stays_where_it_was(made, served, tmp_path, monkeypatch):
    """Also of a store whose name is longer than a file's may be."""
    (tmp_path / "first").mkdir(), (tmp_path / "second").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.chdir(tmp_path / "first")
    long = f"s3://b/{'n' * 300}"
    push(made.path, long)
    store = actstore.open(long)
    monkeypatch.chdir(tmp_path / "second")
    assert store.sql("from rows order by row_id").equals(made.sql("from rows order by row_id"))
    assert [*(tmp_path / "second").iterdir()] == []


READER = """
import sys, actstore
store = actstore.open(sys.argv[1])
rows = store.sql("from rows order by row_id")
print(store.state, [store.residual(rows, layer).sum() for layer in store.layers], len(store.results()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("web", [False, True])
def test_processes_that_fill_one_cache_see_the_same(served, monkeypatch, web):
    """Beside one that clears it again and again."""
    url = f"{served.url}/b/runs/s" if web else URL
    reader = [sys.executable, "-c", READER, url]
    said = []
    for _ in range(3):
        running = [subprocess.Popen(reader, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        said += [process.communicate()[0] for process in running]
        shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    assert len(said) == 12
    assert len({*said}) == 1
    assert said[0]
