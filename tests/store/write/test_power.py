"""Power lost at every instant of a creation, a commit, a compaction and a saved result."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import NotAStoreError
from actstore.maintain import compaction, verify
from actstore.storage import local
from actstore.testing import Disk, restore

LOSSES = 30  # of power, on ext4


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def after(disk, folder, step=1):
    """Each state of the disk (or each of `step`), restored: (state, path of the store)."""
    for state in disk.states[::step]:
        shutil.rmtree(folder, ignore_errors=True)
        restore(state.tree, folder)
        yield state, folder / "s"


def held(path):
    """The batches of a store, every number compared with what was written."""
    store = actstore.open(path)
    for part in store.parts:
        rows = part.rows()
        place = pl.int_range(pl.len()).over(pl.col("row_id") // 2**32, "role")
        for layer in making.LAYERS:
            expected = making.expected(rows.with_columns(place=place), layer)
            assert_array_equal(store.residual(rows, layer), expected)
        assert part.samples().height == making.SAMPLES * len(part.commit.batches)
        columns = np.concatenate([making.columns(batch) for batch in part.commit.batches], axis=1)
        assert_array_equal(part.array("attention/eoi").layer(1), columns[1])
    return {batch for part in store.parts for batch in part.commit.batches}


def test_a_commit(root, tmp_path):
    store = making.create(root / "s", 3)
    store.write(0, **making.content(0))
    with Disk(root) as disk:
        disk.acknowledge(0)
        store.write(1, **making.content(1))
        disk.acknowledge(1)
    seen = Counter()
    for number, (state, path) in enumerate(after(disk, tmp_path / "found")):
        found = held(path)
        assert found >= set(state.acknowledged), state.instant
        if number % 8 == 0:  # and the run goes on
            assert verify.run(verify.steps(path)) == []
            again = actstore.open(path)
            for batch in again.remaining:
                again.write(batch, **making.content(batch))
            assert held(path) == {0, 1, 2}
        seen[len(found), state.how] += 1
    assert {(1, "synced only"), (1, "names, no bytes"), (1, "by chance"), (2, "synced only")} <= {*seen}
    assert len(disk.states) > 50


def test_a_creation(root, tmp_path):
    with Disk(root) as disk:
        making.create(root / "s", 2)
        disk.acknowledge("created")
    seen = set()
    for state, path in after(disk, tmp_path / "found"):
        try:
            store = actstore.open(path)
            assert (store.plan.height, store.vocabulary.height, store.remaining) == (8, 2, [0, 1])
            store.write(0, **making.content(0))
            seen.add("whole")
        except NotAStoreError:
            assert not path.exists()
            assert not state.acknowledged
            seen.add("absent")
    assert seen == {"whole", "absent"}


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_compaction(root, tmp_path, step):
    store = making.store(root / "s", 2)
    with Disk(root) as disk:
        (done,) = compaction.compact(store.path)
        disk.acknowledge(done.name)
    seen = set()
    for number, (state, path) in enumerate(after(disk, tmp_path / "found", step)):
        assert held(path) == {0, 1}, state.instant
        assert number % 8 or verify.run(verify.steps(path)) == []
        names = {commit.name for commit in actstore.open(path).commits}
        assert names >= set(state.acknowledged)
        seen.add(len(names))
    assert seen == {1, 2}


def test_a_saved_result(root, tmp_path):
    store = making.store(root / "s", 1)
    old, new = pl.DataFrame({"n": [1]}), pl.DataFrame({"n": [2]})
    store.save_result("count", old, {})
    with Disk(root) as disk:
        store.save_result("count", new, {})
        disk.acknowledge("new")
    seen = set()
    for state, path in after(disk, tmp_path / "found"):
        number = actstore.open(path).saved_result("count", {}).table()["n"].item()
        assert number == 2 or not state.acknowledged
        seen.add(number)
    assert seen == {1, 2}


# The disk itself notices what is left out


@pytest.mark.parametrize("left_out", ["sync", "sync_tree"])
def test_a_writer_that_does_not_sync_is_found_out(root, tmp_path, monkeypatch, left_out):
    store = making.create(root / "s", 1)
    monkeypatch.setattr(local, left_out, lambda _: None)
    with Disk(root) as disk:
        store.write(0, **making.content(0))
        disk.acknowledge(0)
    lost = 0
    for state, path in after(disk, tmp_path / "found"):
        try:
            lost += not held(path) >= set(state.acknowledged)
        except actstore.CorruptError:
            lost += 1
    assert lost


def test_a_writer_that_renames_is_found_out(root):
    """The commonest mistake: write, rename, and no fsync at all."""
    with Disk(root) as disk:
        (root / "draft").write_bytes(b"content")
        (root / "draft").replace(root / "final")
        disk.acknowledge("final")
    promised = [state.tree for state in disk.states if state.acknowledged]
    assert {} in promised
    assert {"final": b""} in promised
    assert {"final": b"con"} in promised
    assert {"final": b"content"} in promised


def test_a_writer_that_does_all_is_not(root):
    with Disk(root) as disk:
        local.publish(root / "final", b"content")
        disk.acknowledge("final")
    assert {state.tree["final"] for state in disk.states if state.acknowledged} == {b"content"}
    assert {state.tree.get("final", b"content") for state in disk.states} == {b"content"}


# A file system that is copied as it stands, without warning


@pytest.fixture
def mounted(tmp_path):
    """Mounts an image of ext4; for root only."""
    mounts = []

    def mount(image):
        folder = tmp_path / f"mount{len(mounts)}"
        folder.mkdir()
        if subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True).returncode:
            pytest.skip("mounting needs root and loop devices")
        mounts.append(folder)
        return folder

    yield mount
    for folder in mounts:
        subprocess.run(["umount", folder], capture_output=True)


def _write_forever(path):
    store = actstore.open(path)
    for batch in store.remaining:
        store.write(batch, **making.content(batch))
        print(batch, flush=True)  # acknowledged
        if batch % 5 == 4:
            list(compaction.compact(store.path))
    os._exit(0)


@pytest.mark.slow
def test_power_loss_on_ext4(tmp_path, mounted):
    """The image is what had reached the disk: what was only in memory is not in it."""
    image, copy = tmp_path / "image", tmp_path / "copy"
    image.write_bytes(bytes(48 * 2**20))
    if shutil.which("mkfs.ext4") is None or subprocess.run(["mkfs.ext4", "-q", image]).returncode:
        pytest.skip("no mkfs.ext4")
    path = making.create(mounted(image) / "s", 400).path
    program = f"import test_power; test_power._write_forever({str(path)!r})"
    command = [sys.executable, "-c", program]
    acknowledged = []
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen(command, env=paths, stdout=subprocess.PIPE, text=True) as writer:
        os.set_blocking(writer.stdout.fileno(), False)
        for loss in range(LOSSES):
            time.sleep(0.3 + 0.037 * (loss % 7))
            writer.send_signal(signal.SIGSTOP)
            acknowledged += [int(line) for line in writer.stdout]
            shutil.copyfile(image, copy)
            writer.send_signal(signal.SIGCONT)
            found = mounted(copy)
            assert held(found / "s") >= set(acknowledged)
            assert verify.run(verify.steps(found / "s")) == []
            subprocess.run(["umount", found], check=True)
        writer.kill()
    assert len(acknowledged) > LOSSES
