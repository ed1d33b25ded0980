"""The promises, tried on storage that keeps them and on storage that does not."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import pytest

import actstore
from actstore.maintain import verify
from actstore.storage import local
from actstore.testing import promises, storage, trials
from actstore.testing.__main__ import main
from actstore.testing.known import BrokenPromiseError
from actstore.testing.storage import UntestableError


def tried(trial, folder, times=3):
    """Try something some times; returns how often it was."""
    tries = trial(folder)
    try:
        return sum(1 for _ in islice(tries, times))
    finally:
        tries.close()


@pytest.mark.slow
def test_a_local_disk_keeps_all(tmp_path):
    ticks = []
    found = promises(tmp_path, seconds=0, advance=lambda: ticks.append(1))
    assert [outcome for outcome in found if outcome.result == "broken"] == []
    assert all(outcome.tried >= 1 or outcome.result == "not tried here" for outcome in found)
    assert {outcome.promise for outcome in found} == {"P1", "P2", "P3", "P4", "P5"}
    assert len(ticks) == len(found)
    assert list(tmp_path.iterdir()) == []


# Storage that breaks them


def overwrites(source, name):
    """Of a file system whose links replace."""
    copy = shutil.copyfile(source, f"{source}-copy")
    Path(copy).rename(name)


def test_links_that_replace(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", overwrites)
    with pytest.raises(BrokenPromiseError, match="a link replaced what had its name"):
        tried(storage.links, tmp_path)


def test_links_that_replace_now_and_then(tmp_path, monkeypatch):
    """Of those that look first, and then rename."""

    def racy(source, name):
        if name.exists():
            raise FileExistsError
        time.sleep(0.01)
        overwrites(source, name)

    monkeypatch.setattr(os, "link", racy)
    with pytest.raises(BrokenPromiseError, match="a link replaced what had its name"):
        tried(storage.links, tmp_path)


def test_no_links_at_all(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(BrokenPromiseError, match=r"no hard links here \(Operation not permitted\)"):
        tried(storage.links, tmp_path)


def test_renames_that_are_not_whole(tmp_path, monkeypatch):
    def copies(source, target):
        shutil.copyfile(source, target)
        source.unlink()

    def removes(source, target):
        target.unlink()
        time.sleep(0.02)
        source.rename(target)

    for replace, message in ((copies, "was seen in part"), (removes, "was not there for a moment")):
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(BrokenPromiseError, match=message):
            tried(storage.renames, tmp_path, 10_000)


def test_locks_that_everyone_gets(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(BrokenPromiseError, match="two processes had one lock"):
        tried(storage.locks, tmp_path)


def test_no_locks_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "HOLD", "print('No locks available')")
    with pytest.raises(UntestableError, match=r"no locks here \(No locks available\): gc goes by the age"):
        tried(storage.locks, tmp_path)


def test_a_sync_that_fails(tmp_path, monkeypatch):
    def fails(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    monkeypatch.setattr("actstore.testing.suite.TRIALS", (("P1", "syncs", storage.syncs, 1),))
    (outcome,) = promises(tmp_path, seconds=0)
    assert (outcome.result, outcome.note) == ("broken", "OSError: [Errno 5] Input/output error")


# Writers and readers that break them


def test_a_writer_that_does_not_sync(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "sync_tree", lambda _: None)
    with pytest.raises((BrokenPromiseError, trials.ActstoreError)):
        tried(trials.power_loss, tmp_path, 10_000)


def test_a_writer_that_acknowledges_too_early(tmp_path, monkeypatch):
    real = trials.python
    early = "for line in __import__('sys').stdin: print('pid 99999999', *range(40), 'gone', sep='\\n', flush=True)"
    monkeypatch.setattr(trials, "python", lambda *_: real("-c", early))
    with pytest.raises(BrokenPromiseError, match="batch 0 was acknowledged and is not in the store"):
        tried(trials.killed_writers, tmp_path)


def test_a_writer_that_cannot_start(tmp_path, monkeypatch):
    real = trials.python
    monkeypatch.setattr(trials, "python", lambda *_: real("-c", "raise SystemExit('no room')"))
    with pytest.raises(BrokenPromiseError, match="a process ended with status 1: no room"):
        tried(trials.killed_writers, tmp_path)


def test_a_race_that_two_win(tmp_path, monkeypatch):
    real = trials.python
    monkeypatch.setattr(trials, "python", lambda *_: real("-c", "print(*range(12), sep='\\n')"))
    with pytest.raises(BrokenPromiseError, match=r"these were acknowledged: \[0, 0, 0, 1, 1, 1"):
        tried(trials.racing_writers, tmp_path)


def test_a_verification_that_finds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "run", lambda _: [])
    with pytest.raises(BrokenPromiseError, match="and verify found nothing"):
        tried(trials.damage, tmp_path)


def test_a_reader_that_returns_what_was_not_written(tmp_path, monkeypatch):
    read = actstore.Store.residual
    monkeypatch.setattr(actstore.Store, "residual", lambda *arguments: read(*arguments) + 1)
    for trial in (trials.readers, trials.damage, trials.power_loss):
        with pytest.raises(BrokenPromiseError, match="what is read is not what was written"):
            tried(trial, tmp_path, 1000)


# Disks that refuse


def test_a_small_disk_is_filled(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        assert tried(trials.full_disk, tmp_path, 5) == 5
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_large_disk_is_not(tmp_path):
    with pytest.raises(UntestableError, match=r"GB are free; on less than 0\.3 GB the disk is filled"):
        tried(trials.full_disk, tmp_path)


def test_a_folder_without_permission():
    folder = Path(tempfile.mkdtemp())
    try:
        if os.geteuid() == 0:
            with pytest.raises(UntestableError, match="this user may write everywhere"):
                tried(trials.read_only, folder)
            shutil.rmtree(folder / "readonly")
            folder.chmod(0o777)
            os.seteuid(65534)
        try:
            assert tried(trials.read_only, folder) == 3
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
    finally:
        shutil.rmtree(folder)


def test_the_command(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("actstore.testing.suite.TRIALS", (("P1", "syncs", storage.syncs, 1),))
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--seconds", "0"])
    assert ended.value.code == 0
    said = json.loads(capfd.readouterr().out)
    assert said == {"promise": "P1", "what": "syncs", "tried": 1, "result": "kept", "note": ""}


def test_the_command_runs_without_torch_and_pytest(tmp_path):
    program = (
        "import sys; sys.modules |= {'torch': None, 'pytest': None}; import actstore.testing.__main__ as m; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True)
    assert "python -m actstore.testing /mnt/share" in done.stdout, done.stderr


def test_the_command_fails_where_a_promise_is_broken(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(os, "link", overwrites)
    monkeypatch.setattr("actstore.testing.suite.TRIALS", (("P3", "races", storage.links, 1),))
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--format", "csv"])
    assert ended.value.code == 1
    assert 'P3,races,1,broken,"a link replaced what had its name' in capfd.readouterr().out
