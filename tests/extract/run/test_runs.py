"""Runs of actstore extract that are stopped, or whose disk fails: what was kept stays, and the same call goes on."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import actstore
from actstore import process
from actstore.commands import main
from actstore.maintain import orphans, verify
from actstore.write.drafts import Draft
from extracting import SMALL, vectors
from forked import processes

FIRST = ("extract", "digits-fusion")
LIMIT = 48  # samples, four in a part
PARTS = LIMIT // 4


def arguments(path, *more):
    changes = [part for change in (*SMALL, f"samples.limit={LIMIT}") for part in ("--set", change)]
    return [*FIRST, str(path), *changes, "--device", "cpu", *more]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert main.run(arguments(path)) == 0
    return path


@pytest.fixture(scope="module")
def truth(whole):
    return vectors(whole)


@pytest.fixture
def half(whole, tmp_path):
    """A store whose second half is still to be done."""
    path = shutil.copytree(whole, tmp_path / "half")
    for record in sorted((path / "commits").iterdir())[6:]:
        record.unlink()
        shutil.rmtree(next((path / "parts").glob(f"{record.stem}-*")))
    return path


def command(path, said, limit=None):
    """The command in a process of its own, what it says in the file `said`, with files of at most `limit` bytes."""
    child = processes.Process(target=_alone, args=(path, said, limit))
    child.start()
    return child


def _alone(path, said, limit):
    import torch

    torch.set_num_threads(1)
    with said.open("wb") as file:
        os.dup2(file.fileno(), 2)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(main.run(arguments(path)))


def goes_on(path, truth):
    """The same command finishes the store, which then holds what it would have held."""
    assert verify.run(verify.steps(path)) == []
    assert orphans.find(path, older_than=0) == []
    assert main.run(arguments(path)) == 0
    assert vectors(path) == truth
    assert verify.run(verify.steps(path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_between_batches(tmp_path, truth, number):
    path, said = tmp_path / "s", tmp_path / "said"
    child = command(path, said)
    while child.is_alive() and len(list(path.glob("commits/*.json"))) < 2:
        time.sleep(0.002)
    acknowledged = set(path.glob("commits/*.json"))
    os.kill(child.pid, number)
    child.join(60)
    assert child.exitcode == process.INTERRUPTED
    assert acknowledged <= set(path.glob("commits/*.json"))
    done = sum(commit.samples for commit in actstore.open(path).commits)
    assert 8 <= done < LIMIT
    assert f"stopped; {done} of {LIMIT} samples are kept; the same command goes on" in said.read_text()
    goes_on(path, truth)


@pytest.mark.parametrize(
    ("call", "number", "when"),
    [
        ("fsync", errno.ENOSPC, 40),
        ("link", errno.EDQUOT, 3),
        pytest.param("mkdir", errno.EDQUOT, 40, marks=pytest.mark.slow),
        pytest.param("fsync", errno.EIO, 75, marks=pytest.mark.slow),
    ],
)
def test_a_writer_whose_disk_fails(half, truth, monkeypatch, capsys, call, number, when):
    """As the system says it to the thread that writes. EDQUOT is what a quota says, which no test can set."""
    real, calls = getattr(os, call), []

    def failing(*given, **options):
        if threading.current_thread().name.startswith("writer") and not str(given[0]).endswith(".duckdb"):
            calls.append(given)
            if len(calls) == when:
                raise OSError(number, os.strerror(number))
        return real(*given, **options)

    monkeypatch.setattr(os, call, failing)
    assert main.run(arguments(half)) == 1
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert re.search(rf"batch \d+ could not be written: .*{os.strerror(number)}.*; nothing committed is harmed", err)
    kept = len(actstore.open(half).commits)
    assert 6 < kept < PARTS
    goes_on(half, truth)


def test_a_writer_that_raises_what_nobody_expects(half, truth, monkeypatch):
    """A bug: it is shown with its traceback, and what other batches had is kept."""
    write = actstore.Store.write

    def failing(self, number, **content):
        if number == 8:
            raise ZeroDivisionError("a bug")
        return write(self, number, **content)

    monkeypatch.setattr(actstore.Store, "write", failing)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main.run(arguments(half))
    monkeypatch.undo()
    kept = {number for commit in actstore.open(half).commits for number in commit.batches}
    assert {6, 7, 9} <= kept
    assert 8 not in kept
    goes_on(half, truth)


def test_files_that_may_not_grow(half, truth, tmp_path):
    child = command(half, tmp_path / "said", limit=3000)
    child.join(60)
    assert child.exitcode == 1
    assert re.search(r"batch 6 could not be written: .*File too large; nothing comm", (tmp_path / "said").read_text())
    assert len(actstore.open(half).commits) == 6
    goes_on(half, truth)


@pytest.fixture
def mount(disk_of):
    return disk_of("1M")


def test_a_full_disk(mount, truth, monkeypatch, capsys):
    assert main.run(arguments(mount / "s")) == 1
    assert re.search(
        r"batch 0 needs up to \d+ MB, \d MB are free; nothing committed is harmed: make room", _err(capsys)
    )
    monkeypatch.setattr(Draft, "_check_space", lambda *_: None)
    assert main.run(arguments(mount / "s")) == 1
    assert re.search(r"batch \d+ could not be written: .*No space left on device", _err(capsys))
    assert 0 < len(actstore.open(mount / "s").commits) < PARTS
    subprocess.run(["mount", "-o", "remount,size=20m", mount], check=True)
    goes_on(mount / "s", truth)


def test_a_disk_that_is_read_only(mount, half, whole, monkeypatch, capsys):
    subprocess.run(["mount", "-o", "remount,size=20m", mount], check=True)
    shutil.copytree(half, mount / "half")
    shutil.copytree(whole, mount / "whole")
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
    assert main.run(arguments(mount / "half")) == 1
    assert "cannot be written: Read-only file system" in _err(capsys)
    assert main.run(arguments(mount / "new")) == 1
    assert "the store cannot be created: Read-only file system" in _err(capsys)
    assert main.run(arguments(mount / "whole")) == 0
    assert f"0 of {LIMIT} samples left" in _err(capsys)


def _err(capsys):
    return capsys.readouterr().err


# torchrun


def _torchrun(path, ranks):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    own = [str(Path(sys.executable).parent / "actstore"), *arguments(path)]
    return subprocess.Popen([*run, *own], env=environment, stderr=subprocess.PIPE, text=True)


def _rank(run, rank):
    """The process of a rank, once there is one; None before."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == run.pid and f"RANK={rank}\0" in (folder / "environ").read_text().replace("\0LOCAL_", "\0_"):
                return int(folder.name)
        except (OSError, ValueError):
            continue
    return None


@pytest.mark.slow
def test_a_rank_that_is_killed_under_torchrun_and_another_number_of_ranks(tmp_path, truth):
    path = tmp_path / "s"
    run = _torchrun(path, 2)
    while run.poll() is None and not list(path.glob("commits/b*[13579].json")):  # the share of rank 1
        time.sleep(0.002)
    victim = _rank(run, 1)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    _, err = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "SIGKILL" in err or "Signal 9" in err
    done = len(actstore.open(path).commits)
    assert 0 < done < PARTS
    again = _torchrun(path, 3)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert vectors(path) == truth
    assert verify.run(verify.steps(path)) == []
