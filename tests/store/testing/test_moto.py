"""A bucket of moto behind our front: who is first, lists in pages, statuses, lost answers, writers that are killed."""

import os
import signal
import time

import numpy as np
import pytest

import actstore
import leading
import making
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore.maintain.pulling import pull
from actstore.maintain.pushing import push
from actstore.storage import anywhere, objects
from actstore.testing import known, processes
from actstore.write import outbox
from buckets import Fault, bucket
from leading import URL
from motos import Moto

RECORD = "runs/s/commits/b00000000.json"
SHARD = "residual/eoi/c/0/0/0"


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PAUSES", (0.0, 0.01, 0.01))
    monkeypatch.setattr(outbox, "_tried", set())
    with bucket(behind=Moto) as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        yield found


@pytest.fixture
def made(tmp_path, served):
    """A store there and in a folder; nothing of it in the cache."""
    found = making.store(tmp_path / "s", 2)
    push(found.path, URL)
    leading.forget(tmp_path / "cache")
    return found


@pytest.fixture
def empty(tmp_path, served):
    """A store there in which nothing is written yet."""
    push(making.create(tmp_path / "empty", 2).path, URL)
    return actstore.open(URL)


def test_it_is_moto_and_who_is_first_stays(served):
    storage = anywhere.opened("s3://b/x")
    storage.create("one", b"first")
    storage.create("one", b"first")  # as one whose answer was lost
    with pytest.raises(objects.PresentError):
        storage.create("one", b"other")
    assert served.objects == {"x/one": b"first"}


def test_lists_come_in_pages(served):
    served.objects.update({f"x/{name}": bytes(name) for name in range(7)})
    served.page = 3
    assert anywhere.opened("s3://b/x").listed("") == {str(name): name for name in range(7)}
    assert served.took().count(("LIST", "x/")) == 3


def test_a_store_goes_there_is_read_and_comes_back(made, tmp_path):
    rows = made.sql("from rows order by row_id")
    there = actstore.open(URL)
    assert there.sql("from rows order by row_id").equals(rows)
    for layer in making.LAYERS:
        assert np.array_equal(there.residual(rows, layer), made.residual(rows, layer))
    assert run(["verify", URL]) == 0
    assert pull(URL, tmp_path / "copy").state == made.state


@pytest.mark.parametrize("kind", ["lost", 409, 429, 500, 503])
def test_a_record_is_ours_whatever_was_answered_once(empty, served, kind):
    served.faults.append(Fault(kind, "PUT", RECORD))
    commit = empty.write(0, **making.content(0))
    assert served.faults[0].times == 0
    assert commit.part.encode() in served.objects[RECORD]
    assert actstore.open(URL).remaining == [1]


@pytest.mark.parametrize("kind", [403, 404, 412])
def test_what_is_refused_commits_nothing(empty, served, kind):
    served.faults.append(Fault(kind, "PUT", SHARD, times=9))
    with pytest.raises(ActstoreError, match=f"{URL}/.*{SHARD}: "):
        empty.write(0, **making.content(0))
    assert RECORD not in served.objects
    served.faults.clear()
    empty.write(0, **making.content(0))
    assert actstore.open(URL).remaining == [1]


@pytest.mark.parametrize("kind", [429, 500, 503, "cut", "lost"])
def test_what_goes_wrong_once_is_asked_for_again(made, served, kind):
    served.faults += [Fault(kind, "GET", key) for key in ("actstore.json", SHARD)]
    rows = made.sql("from rows where role = 'eoi'")
    assert np.array_equal(actstore.open(URL).residual(rows, 1), made.residual(rows, 1))
    assert [fault.times for fault in served.faults] == [0, 0]


@pytest.mark.parametrize(("kind", "said"), [(403, "not allowed"), (404, "committed, but missing"), ("flip", "crc32c")])
def test_what_stays_wrong_is_told(made, served, kind, said):
    served.faults.append(Fault(kind, "GET", SHARD, times=99))
    with pytest.raises(ActstoreError, match=f"{SHARD}.*{said}"):
        actstore.open(URL).residual(made.sql("from rows where role = 'eoi'"), 1)


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_writers_that_are_killed_lose_nothing_that_was_acknowledged(tmp_path, served, kills):
    """At any instant of a batch or between two; every batch is bit for bit the truth."""
    push(known.create(tmp_path / "s", 6 * kills).path, URL)
    acknowledged, chance = set(), np.random.default_rng(0)
    with processes.python("-m", "actstore.testing.writer", "serve") as server:
        for seed in range(kills):
            processes.tell(server, f"{URL}\t{seed}")
            pid = int(processes.next_line(server).removeprefix("pid "))
            said = [processes.next_line(server)]
            time.sleep(chance.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
            while (line := processes.next_line(server)) != "gone":
                said.append(line)
            acknowledged |= {int(line) for line in said if line.isdigit()}
        assert len(acknowledged) >= kills
        assert acknowledged <= known.check(URL)
    known.write(actstore.open(URL), *actstore.open(URL).remaining)
    assert known.check(URL) == set(range(6 * kills))
