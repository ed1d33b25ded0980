"""--devices: several processes of one machine in one run, on its CPU; who has which GPU is arithmetic."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr
from io import StringIO

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import actstore
from actstore.commands import main
from actstore.maintain import verify
from actstore_extract.run import devices
from actstore_extract.run.devices import assigned
from actstore_extract.run.ranks import RankError, Share
from extracting import SMALL, extract, vectors
from forked import processes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    extract(path)
    return vectors(path)


def arguments(path, *more):
    changes = [word for change in SMALL for word in ("--set", change)]
    return ["extract", "digits-fusion", str(path), *changes, "--device", "cpu", *more]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


class Forked:
    """What subprocess.Popen would begin, in a process that has imported torch; what it says comes when it has ended."""

    def __init__(self, words, *, stderr, env, **_):
        assert words[:3] == [sys.executable, "-m", "actstore"]
        self._heard, said = multiprocessing.Pipe(duplex=False)
        self._child = processes.Process(target=_forked, args=(words[3:], env, said))
        self._child.start()
        said.close()
        self.stderr = self if stderr else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._heard.close()

    def __iter__(self):
        return iter(self._heard.recv().splitlines())

    def wait(self):
        if self.stderr is None:
            sys.stderr.write(self._heard.recv())
        self._child.join()
        return self._child.exitcode


def _forked(words, env, said):
    os.environ.update(env)
    torch.set_num_threads(1)
    with redirect_stderr(StringIO()) as heard:
        status = main.run(words)
    said.send(heard.getvalue())
    sys.exit(status)


@pytest.mark.parametrize("begin", [Forked, pytest.param(subprocess.Popen, marks=pytest.mark.slow)])
def test_two_processes_make_the_store_that_one_makes(tmp_path, whole, monkeypatch, capfd, begin):
    monkeypatch.setattr(devices.subprocess, "Popen", begin)
    assert main.run(arguments(tmp_path / "s", "--devices", "2")) == 0
    said = capfd.readouterr().err
    lines = [line for line in said.splitlines() if " samples left, share " in line]
    assert len(lines) == 2
    assert [line.startswith("[2] ") for line in lines] == [line.endswith("share 2 of 2 (--share)") for line in lines]
    assert vectors(tmp_path / "s") == whole
    assert verify.run(verify.steps(tmp_path / "s")) == []


@pytest.mark.slow
def test_a_process_that_is_killed_costs_nothing(tmp_path, whole, monkeypatch, capfd):
    path, started, begin = tmp_path / "s", [], subprocess.Popen

    def seen(*words, **options):
        started.append(begin(*words, **options))
        return started[-1]

    def kill():
        while not list(path.glob("parts/b*[13579]-*")):
            time.sleep(0.005)
        started[1].kill()

    monkeypatch.setattr(devices.subprocess, "Popen", seen)
    killing = threading.Thread(target=kill)
    killing.start()
    assert main.run(arguments(path, "--devices", "2")) == 0
    killing.join()
    assert "ended by signals: share 2 (-9); the others have taken what they left" in capfd.readouterr().err
    assert vectors(path) == whole


@pytest.mark.slow
def test_sigterm_ends_all_of_them_and_the_same_command_goes_on(tmp_path, whole):
    path = tmp_path / "s"
    words = [sys.executable, "-m", "actstore", *arguments(path, "--devices", "2")]
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not list(path.glob("commits/*.json")):
        assert run.poll() is None
        time.sleep(0.005)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert "of 24 samples are kept; the same command goes on" in said
    before = len(list(path.glob("commits/*.json")))
    time.sleep(1)
    assert len(list(path.glob("commits/*.json"))) == before  # nobody is at work any more
    assert main.run(arguments(path, "--devices", "2")) == 0
    assert vectors(path) == whole


@pytest.mark.slow
def test_what_is_wrong_is_the_status_of_all(tmp_path, capfd):
    assert main.run(arguments(tmp_path / "s", "--devices", "2", "--set", "capture.layers=[99]")) == 1
    assert capfd.readouterr().err.count("layer 99 is out of range") == 2


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.lists(st.integers(0, 99), unique=True).map(sorted))
def test_ranks_part_a_share_and_have_a_gpu_each(n, of, spare, batches):
    every = [assigned(n, Share(number, of, "x"), "cuda", n + spare) for number in range(1, of + 1)]
    for ranks in every:
        assert [rank.device for rank in ranks] == [f"cuda:{i}" for i in range(n)]
    shares = [rank.share for ranks in every for rank in ranks]
    assert sorted(one for share in shares for one in share.own(batches)) == batches


def test_the_cpu_is_what_is_left(monkeypatch):
    assert {rank.device for rank in assigned(3, Share(), "auto", 0)} == {"cpu"}
    assert {rank.device for rank in assigned(3, Share(), "cpu", 8)} == {"cpu"}


@pytest.mark.parametrize(
    ("device", "gpus", "said"),
    [
        ("cuda:1", 4, "--device cuda:1 is one device, and --devices 3 are several"),
        ("cuda", 2, "--devices 3, and this machine has 2 GPUs: take 2"),
        ("auto", 1, "--devices 3, and this machine has 1 GPUs: take 1"),
        ("cuda", 0, r"take the CPU \(--device cpu\)"),
    ],
)
def test_devices_that_are_not_there(device, gpus, said):
    with pytest.raises(RankError, match=said):
        assigned(3, Share(), device, gpus)


def test_beside_others_that_were_started_it_is_refused(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main.run(arguments(tmp_path / "s", "--devices", "2", "--set", "model.device_map=auto")) == 1
    assert "--devices 2 are as many models: leave one of them out" in capfd.readouterr().err
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert main.run(arguments(tmp_path / "s", "--devices", "2")) == 1
    assert "--devices 2 in one of 4 processes that torchrun started" in capfd.readouterr().err
    assert not (tmp_path / "s").exists()


def test_one_device_is_a_run_as_any(tmp_path, whole):
    assert main.run(arguments(tmp_path / "s", "--devices", "1")) == 0
    assert vectors(tmp_path / "s") == whole
    assert actstore.open(tmp_path / "s").remaining == []
