import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import ActstoreError, AlreadyCommittedError, orphans, verify
from actstore.drafts import Draft

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["actstore.store", "actstore.arrays", "zarr", "making"])


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


@pytest.fixture
def mount(tmp_path):
    """A small file system of its own, for root."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


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


def _write_forever(path, seed):
    store = actstore.open(path)
    order = np.random.default_rng(seed).permutation(store.remaining).tolist()
    for number in order:
        store.write(number, **making.content(number))
        print(number, flush=True)  # acknowledged
    os._exit(0)


def _writer(path, seed):
    program = f"import test_faults; test_faults._write_forever({str(path)!r}, {seed})"
    here = Path(__file__).parent
    return subprocess.Popen([sys.executable, "-c", program], cwd=here, stdout=subprocess.PIPE, text=True)


def _check_truth(path, layers=making.LAYERS):
    """Every committed batch, bit for bit; returns their numbers."""
    store = actstore.open(path)
    rows = store.sql("select row_id, role, place from rows")
    for layer in layers:
        assert_array_equal(store.residual(rows, layer), making.expected(rows, layer))
    batches = store.sql("select batch from parts order by all")["batch"].to_list()
    assert rows.height == 9 * len(batches)
    return batches


def _kill_and_resume(path, kills):
    making.create(path, 60 * kills)
    random = np.random.default_rng(0)
    acknowledged, reads = set(), 0
    for kill in range(kills):
        with _writer(path, kill) as writer:
            acknowledged.add(int(writer.stdout.readline()))
            deadline = time.monotonic() + random.uniform(0, 0.25)
            while time.monotonic() < deadline:
                _check_truth(path, [1])  # a reader at the same time
                reads += 1
            writer.kill()
            acknowledged |= {int(line) for line in writer.stdout if line.endswith("\n")}
        assert acknowledged <= set(_check_truth(path, [kill % 3]))
    assert reads >= kills
    assert verify.run(verify.steps(path)) == []
    for orphan in orphans.find(path, older_than=0):
        assert orphans.remove(orphan)
    held = _check_truth(path)
    assert len(list((path / "parts").iterdir())) == len(list((path / "commits").iterdir())) == len(held)
    store = actstore.open(path)
    assert sorted(held + store.remaining) == list(range(60 * kills))


def test_killed_writers_lose_nothing(tmp_path):
    _kill_and_resume(tmp_path / "s", 10)


@pytest.mark.slow
def test_many_killed_writers_lose_nothing(tmp_path):
    _kill_and_resume(tmp_path / "s", 40)


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
    assert _check_truth(tmp_path / "s") == list(range(12))
    assert len(list((tmp_path / "s" / "parts").iterdir())) == 12
    assert orphans.find(tmp_path / "s", older_than=0) == []
