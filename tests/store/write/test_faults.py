import contextlib
import errno
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import ActstoreError, AlreadyCommittedError
from actstore.format.schema import ROWS
from actstore.maintain import orphans, verify
from actstore.write.drafts import Draft
from forked import processes

# Disks that fail


def _limited(path, limit, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    batch = making.content(2)
    batch["residual"]["eoi"] = np.random.default_rng(0).standard_normal((3, 3, 8)).astype(np.float32)
    try:
        actstore.open(path).write(2, **batch)
    except ActstoreError as error:
        said.send(str(error))


@pytest.mark.parametrize("limit", [0, 100, 1000, 1700, 3000])
def test_a_file_size_limit_harms_nothing(tmp_path, limit):
    store = making.create(tmp_path / "s")
    store.write(0, **making.content(0))
    before = {path: path.read_bytes() for path in making.files(store.path)}
    heard, said = multiprocessing.Pipe()
    writer = processes.Process(target=_limited, args=(store.path, limit, said))
    writer.start()
    writer.join()
    assert re.search("batch 2 could not be written: .*File too large; nothing committed is harmed", heard.recv())
    assert {path: path.read_bytes() for path in making.files(store.path)} == before
    assert actstore.open(store.path).remaining == [1, 2]


def _failing(call, after, error):
    """The call, which fails with some errno when it was called that often."""
    left = [after]

    def fail(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(error, os.strerror(error))
        return call(*arguments, **options)

    return fail


@pytest.mark.parametrize("error", [errno.EDQUOT, errno.ENOSPC, errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize(("name", "after"), [("mkdir", 0), ("fsync", 0), ("fsync", 5), ("fsync", 15), ("link", 0)])
def test_an_error_of_the_system_at_some_step(tmp_path, monkeypatch, name, after, error):
    """A quota, for example, which ends a write at any call."""
    store = making.create(tmp_path / "s")
    store.write(0, **making.content(0))
    before = {path: path.read_bytes() for path in making.files(store.path)}
    with monkeypatch.context() as patched:
        patched.setattr(os, name, _failing(getattr(os, name), after, error))
        with pytest.raises(ActstoreError, match=os.strerror(error)):
            store.write(1, **making.content(1))
    assert {path: path.read_bytes() for path in making.files(store.path)} == before
    store.write(1, **making.content(1))
    assert actstore.open(store.path).remaining == [2]


@pytest.fixture
def mount(disk_of):
    return disk_of("400k")


def test_a_full_disk_harms_nothing(mount, monkeypatch):
    store = making.create(mount / "s")
    with pytest.raises(ActstoreError, match=r"batch 0 needs up to 17 MB, 0 MB are free; nothing committed is harmed"):
        store.write(0, **making.content(0))
    monkeypatch.setattr(Draft, "_check_space", lambda *_: None)
    store.write(0, **making.content(0))
    filler = mount / "filler"
    for free in (0, 4, 8, 16, 24, 32):  # kB left over: the writer fails at one step or another
        filler.write_bytes(bytes(shutil.disk_usage(mount).free - free * 1024))
        with pytest.raises(ActstoreError, match="No space left on device; nothing committed is harmed"):
            store.write(1, **making.content(1))
        filler.unlink()
        assert len(list((store.path / "parts").iterdir())) == 1
        assert verify.run(verify.steps(store.path)) == []
    store.write(1, **making.content(1))
    assert actstore.open(store.path).remaining == [2]


def test_a_read_only_store_can_be_read_but_not_written(mount, monkeypatch):
    monkeypatch.setattr(Draft, "_check_space", lambda *_: None)
    store = making.create(mount / "s")
    store.write(0, **making.content(0))
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
    store = actstore.open(store.path)
    rows = store.sql("from rows")
    assert_array_equal(store.residual(rows, 2), making.expected(rows, 2))
    with pytest.raises(ActstoreError, match="cannot be written: Read-only file system"):
        store.write(1, **making.content(1))
    with pytest.raises(ActstoreError, match="could not be saved: .*Read-only file system"):
        store.save_result("overlap", rows, {})
    with pytest.raises(ActstoreError, match="the store cannot be created: Read-only file system"):
        making.create(mount / "t")


# Writers that die, writers that race


def _write_forever(path, seed, acknowledged):
    store = actstore.open(path)
    for number in np.random.default_rng(seed).permutation(store.remaining).tolist():
        store.write(number, **making.content(number))
        acknowledged.send(number)
    os._exit(0)


def _check_truth(path, seen=frozenset()):
    """Every committed batch but those seen before, bit for bit; returns the numbers of all."""
    store = actstore.open(path)
    new = [part for part in store.parts if part.commit.batches[0] not in seen]
    rows = pl.concat([part.rows() for part in new]) if new else pl.DataFrame(schema=ROWS)
    assert rows.height == 9 * len(new)
    for layer in making.LAYERS:
        assert_array_equal(store.residual(rows, layer), making.expected(rows, layer))
    return {part.commit.batches[0] for part in store.parts}


def _received(pipe):
    """What was sent whole before its sender was killed."""
    found = set()
    with contextlib.suppress(EOFError):
        while pipe.poll():
            found.add(pipe.recv())
    return found


def _kill_and_resume(path, kills, random):
    """Returns how often a reader read beside the writers."""
    making.create(path, 60 * kills)
    acknowledged, seen, reads = set(), set(), 0
    for seed in range(kills):
        heard, said = multiprocessing.Pipe(duplex=False)
        writer = processes.Process(target=_write_forever, args=(path, seed, said))
        writer.start()
        said.close()
        acknowledged.add(heard.recv())
        deadline = time.monotonic() + random.uniform(0, 0.25)
        while time.monotonic() < deadline:
            found = _check_truth(path, seen)  # a reader at the same time
            assert found >= seen
            seen, reads = found, reads + 1
        writer.kill()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        acknowledged |= _received(heard)
        found = _check_truth(path, seen)
        assert found >= acknowledged | seen
        seen = found
    assert verify.run(verify.steps(path)) == []
    for orphan in orphans.find(path, older_than=0):
        assert orphans.remove(orphan)
    assert _check_truth(path) == seen
    assert len(list((path / "parts").iterdir())) == len(list((path / "commits").iterdir())) == len(seen)
    store = actstore.open(path)
    assert store.sql("from rows").height == 9 * len(seen)
    assert sorted([*seen, *store.remaining]) == list(range(60 * kills))
    return reads


@pytest.mark.slow
def test_killed_writers_lose_nothing(tmp_path):
    assert _kill_and_resume(tmp_path / "s", 10, np.random.default_rng(0)) >= 3


@pytest.mark.slow
def test_many_killed_writers_lose_nothing(tmp_path):
    """200 of them, in stores that stay small."""
    reads = [_kill_and_resume(tmp_path / f"s{number}", 20, np.random.default_rng(number)) for number in range(10)]
    assert sum(reads) > 200


def _race(path, number):
    store = actstore.open(path)
    won = 0
    for batch in range(12):
        try:
            store.write(batch, **making.content(batch), by={"writer": number})
            won += 1
        except AlreadyCommittedError:
            pass
    os._exit(won)


def test_racing_writers_write_each_batch_once(tmp_path):
    making.create(tmp_path / "s", 12)
    writers = [processes.Process(target=_race, args=(tmp_path / "s", number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sum(writer.exitcode for writer in writers) == 12
    assert _check_truth(tmp_path / "s") == set(range(12))
    assert len(list((tmp_path / "s" / "parts").iterdir())) == 12
    assert orphans.find(tmp_path / "s", older_than=0) == []
