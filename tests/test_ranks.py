"""Several ranks in one store: each takes its share, ranks may die, their number may change."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import actstore
from actstore import verify
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
