"""Writing at a URL: what arrives in which order, who is first, answers that are lost, writers that are killed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import actstore
import leading
import making
from actstore.commands.main import run
from actstore.errors import ActstoreError, AlreadyCommittedError
from actstore.maintain.pulling import pull
from actstore.maintain.pushing import push, write_derived
from actstore.storage import objects
from actstore.testing import known
from actstore.write import drafts, outbox
from buckets import Fault, bucket
from leading import URL

BATCH = "runs/s/commits/b00000000.json"


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PAUSES", (0.0, 0.01, 0.01))
    monkeypatch.setattr(outbox, "_tried", set())
    with bucket() as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        yield found


@pytest.fixture
def empty(tmp_path, served):
    """A store at the URL in which nothing is written yet, and the truth of what will be."""
    push(making.create(tmp_path / "empty", 2).path, URL)
    served.took()
    return actstore.open(URL)


def keys(served, method):
    return [key.removeprefix("runs/s/") for one, key in served.took() if one == method and "probe" not in key]


def same(one, other):
    rows = one.sql("from rows order by row_id")
    assert rows.equals(other.sql("from rows order by row_id"))
    for role in making.PER_SAMPLE:
        ids = rows.filter(role=role)
        for layer in making.LAYERS:
            assert np.array_equal(one.residual(ids, layer), other.residual(ids, layer))


def test_what_is_written_there_is_what_is_written_in_a_folder(empty, tmp_path, served):
    for batch in range(2):
        empty.write(batch, **making.content(batch))
    assert empty.remaining == []
    truth = making.store(tmp_path / "truth", 2)
    same(actstore.open(URL), truth)
    leading.forget(tmp_path / "cache")
    same(actstore.open(URL), truth)
    same(pull(URL, tmp_path / "copy"), truth)
    assert run(["verify", URL]) == 0


def test_files_come_first_and_the_record_last(empty, served):
    commit = empty.write(0, **making.content(0))
    sent = keys(served, "PUT")
    assert sorted(sent[:-1]) == sorted(f"parts/{commit.part}/{name}" for name in commit.files)
    assert sent[-1] == "commits/b00000000.json"


def test_only_tables_are_left_here(empty, tmp_path):
    commit = empty.write(0, **making.content(0))
    left = [path.name for path in (tmp_path / "cache").rglob(f"{commit.part}/*")]
    assert sorted(left) == ["rows.parquet", "samples.parquet"]


def test_what_a_killed_writer_left_here_goes(empty, tmp_path, monkeypatch):
    """An hour later, with the first batch that is written; parts that are there, or that somebody writes, stay."""
    commit = empty.write(0, **making.content(0))
    parts = empty.path / "parts"
    for name in ("b00000001-0badc0de", "b00000001-00000001", "b00000001-00000002"):
        (parts / name / "residual").mkdir(parents=True)
    (parts / commit.part / "residual").mkdir()  # as a shard that was read whole
    then = time.time() - 7200
    for name in ("b00000001-0badc0de", "b00000001-00000002", commit.part):
        os.utime(parts / name, (then, then))
    drafts._sweep.cache_clear()
    with drafts.claimed(parts / "b00000001-00000002"):
        empty.write(1, **making.content(1))
    left = {path.name for path in parts.iterdir()}
    assert "b00000001-0badc0de" not in left
    assert {"b00000001-00000001", "b00000001-00000002", commit.part} < left
    assert (parts / commit.part / "residual").exists()


def test_the_second_writer_is_told_and_leaves_nothing(empty, served):
    other = actstore.open(URL)
    first = empty.write(0, **making.content(0))
    with pytest.raises(AlreadyCommittedError, match="batch 0 is committed already"):
        other.write(0, **making.content(0))
    assert other.remaining == [1]
    assert {key.split("/")[3] for key in served.objects if "/parts/" in key} == {first.part}


def test_who_is_first_between_look_and_record_wins(empty, served, monkeypatch):
    """The loser's part is removed, and the winner's stays."""
    draft = empty.draft(0)
    winner = actstore.open(URL).write(0, **making.content(0))
    monkeypatch.setattr(actstore.Store, "is_committed", lambda *_: False)
    with pytest.raises(AlreadyCommittedError, match="another writer was first; this copy is discarded"):
        empty.write(0, draft=draft, **making.content(0))
    assert {key.split("/")[3] for key in served.objects if "/parts/" in key} == {winner.part}


@pytest.mark.parametrize("kind", ["lost", 409, 500, 503])
def test_a_record_whose_answer_is_lost_is_ours(empty, served, kind):
    served.faults.append(Fault(kind, "PUT", BATCH))
    commit = empty.write(0, **making.content(0))
    assert served.faults[0].times == 0
    assert commit.part.encode() in served.objects[BATCH]
    assert actstore.open(URL).remaining == [1]


@pytest.mark.parametrize("name", ["rows.parquet", "c/0/0/0", BATCH])
def test_what_cannot_be_sent_commits_nothing_and_goes_on(empty, served, name):
    served.faults.append(Fault(403, "PUT", name))
    with pytest.raises(ActstoreError, match=f"{URL}/.*: not allowed"):
        empty.write(0, **making.content(0))
    assert BATCH not in served.objects
    assert actstore.open(URL).remaining == [0, 1]
    empty.write(0, **making.content(0))
    assert actstore.open(URL).remaining == [1]


def test_a_part_that_did_not_arrive_whole_is_not_committed(empty, served, monkeypatch):
    listed = objects.Objects.listed
    monkeypatch.setattr(objects.Objects, "listed", lambda self, name: dict(list(listed(self, name).items())[1:]))
    with pytest.raises(ActstoreError, match="not all of it arrived; nothing of it is committed"):
        empty.write(0, **making.content(0))
    assert BATCH not in served.objects


def test_a_part_that_took_too_long_is_given_up(empty, served, monkeypatch):
    """Before gc may take it for one that nobody finishes."""
    monkeypatch.setattr(outbox, "GIVEN_UP", -1.0)
    with pytest.raises(ActstoreError, match="begun more than 12 hours ago"):
        empty.write(0, **making.content(0))
    assert BATCH not in served.objects


def test_places_where_nothing_is_written(empty, served, monkeypatch):
    monkeypatch.setattr(outbox, "_tried", set())
    served.ignores = True
    before = dict(served.objects)
    with pytest.raises(ActstoreError, match="this server ignores If-None-Match"):
        empty.write(0, **making.content(0))
    assert served.objects == before
    with pytest.raises(ActstoreError, match="nothing is written there; write into a folder"):
        actstore.open(f"{served.url}/b/runs/s").write(0, **making.content(0))


def test_what_is_derived_is_made_anew(empty, served, tmp_path):
    """A web server finds the records by it; a bucket opens in as few requests as after a push."""
    for batch in range(2):
        empty.write(batch, **making.content(batch))
    write_derived(actstore.open(URL))
    assert actstore.open(f"{served.url}/b/runs/s").sql("from rows").height == 18
    leading.forget(tmp_path / "cache")
    served.took()
    actstore.open(URL).sql("from rows")
    assert len(served.took()) <= 7


def test_a_record_of_another_process_is_not_taken_from_the_mirror(empty, served):
    """Listed before it was created, and kept here since."""
    mirror = empty.mirror
    entries = mirror.storage.entries

    def slow(folder):
        found = entries(folder)
        actstore.open(URL).write(0, **making.content(0))
        return found

    mirror.storage.entries = slow
    mirror.records.refresh(empty.header.crc32c)
    del mirror.storage.entries
    assert (mirror.folder / "commits" / "b00000000.json").exists()


WRITER = [sys.executable, "-m", "actstore.testing.writer", "all", URL]


def writer(seed):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([*WRITER, str(seed)], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["one", "each"])
def test_racing_writers_acknowledge_each_batch_once(tmp_path, served, monkeypatch, cache):
    """Of one machine and of several, beside answers that are lost and conflicts; bit for bit."""
    push(known.create(tmp_path / "s", 12).path, URL)
    served.faults += [Fault(kind, "PUT", "commits/", times=2) for kind in ("lost", 409, 503)]
    running = []
    for seed in range(3):
        if cache == "each":
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{seed}"))
        running.append(writer(seed))
    won = sorted(int(line) for process in running for line in process.communicate()[0].split())
    assert won == list(range(12))
    assert known.check(URL) == set(range(12))
    parts = {key.split("/")[3] for key in served.objects if "/parts/" in key}
    assert len(parts) == 12


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path, served):
    """Killed at any instant, again and again; who comes after goes on, and every batch is bit for bit the truth."""
    push(known.create(tmp_path / "s", 40).path, URL)
    acknowledged, chance = set(), np.random.default_rng(0)
    for seed in range(8):
        process = writer(seed)
        said = process.stdout.readline()
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0]
        acknowledged |= {int(line) for line in (said + rest).split("\n") if line.strip()}
        assert acknowledged <= known.check(URL)
    writer(99).communicate()
    assert known.check(URL) == set(range(40))


def test_known_stores_are_checked_there(tmp_path, served):
    push(known.create(tmp_path / "s", 2).path, URL)
    known.write(actstore.open(URL), 1)
    assert known.check(URL) == {1}
