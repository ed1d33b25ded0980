"""Several ranks in one store: each takes its share, ranks may die, their number may change."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import actstore
from actstore.maintain import verify
from actstore_extract.families import LoadError
from actstore_extract.recipe import recipe
from actstore_extract.run import runner
from actstore_extract.run.ranks import RankError, device_of
from extracting import extract, vectors
from ranks import start_rank


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    extract(path)
    return vectors(path)


def test_each_rank_takes_its_share(tmp_path, whole):
    children = [start_rank(tmp_path / "s", rank, 2) for rank in range(2)]
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert not actstore.open(tmp_path / "s").remaining
    assert vectors(tmp_path / "s") == whole


def test_a_rank_dies_and_another_number_of_ranks_goes_on(tmp_path, whole):
    path = tmp_path / "s"
    survivor, victim = start_rank(path, 0, 2), start_rank(path, 1, 2)
    while victim.is_alive() and not list(path.glob("parts/b*[13579]-*")):
        time.sleep(0.005)
    victim.kill()
    survivor.join(120)
    assert survivor.exitcode == 0
    assert {number % 2 for commit in actstore.open(path).commits for number in commit.batches} >= {0}
    children = [start_rank(path, rank, 3) for rank in range(3)]
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert vectors(path) == whole
    assert verify.run(verify.steps(path)) == []


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (device_of("auto"), device_of("cuda"), device_of("auto", "auto")) == ("auto", "cuda", "auto")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    for rank, device in ((0, "cuda:0"), (3, "cuda:3"), (5, "cuda:1")):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert device_of("auto") == device_of("cuda") == device
        assert (device_of("cuda:2"), device_of("cpu")) == ("cuda:2", "cpu")
    with pytest.raises(RankError, match="device_map = 'auto' spreads a model .* 8 processes"):
        device_of("auto", "auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_of("auto") == "auto"


def test_a_run_takes_the_device_of_its_rank(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        runner, "device_of", lambda device, spread: asked.setdefault("asked", (device, spread)) and "far"
    )
    with pytest.raises(LoadError, match="no device 'far' here"):
        runner.Run(recipe.load("digits-fusion"), device="cuda").model  # noqa: B018
    assert asked["asked"] == ("cuda", None)


@pytest.mark.slow
def test_under_torchrun(tmp_path, whole):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    changes = ["--limit", "24", "--batch-size", "4", "--set", "capture.part_samples=4", "--set", "capture.batch_size=4"]
    actstore_command = str(Path(sys.executable).parent / "actstore")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, actstore_command, "extract", "digits-fusion", str(tmp_path / "s"), *changes],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert vectors(tmp_path / "s") == whole
