"""Several ranks in one store: each takes its share, ranks may die, their number may change."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.exceptions import Exit
from hypothesis import given
from hypothesis import strategies as st

import actstore
from actstore.maintain import verify
from actstore_extract.families import LoadError
from actstore_extract.recipe import recipe
from actstore_extract.run import runner
from actstore_extract.run.command import _end_in_part
from actstore_extract.run.ranks import RankError, Share, device_of, share_of
from actstore_extract.run.runner import Run
from extracting import SMALL, extract, vectors
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


def test_what_a_dead_rank_leaves_is_taken_by_another(tmp_path, whole):
    path = tmp_path / "s"
    survivor, victim = start_rank(path, 0, 2), start_rank(path, 1, 2)
    while victim.is_alive() and not list(path.glob("parts/b*[13579]-*")):
        time.sleep(0.005)
    victim.kill()
    survivor.join(120)
    assert survivor.exitcode == 0
    assert vectors(path) == whole
    assert verify.run(verify.steps(path)) == []


def test_one_of_many_shares_does_all_when_it_is_alone(tmp_path, whole):
    said = []
    share = Share(3, 5, "--share")
    Run(recipe.load("digits-fusion", SMALL), share=share, say=said.append).extract(tmp_path / "s")
    assert "4 of 24 samples left, share 3 of 5 (--share)" in said
    assert "20 of 24 samples left by other shares" in said
    assert vectors(tmp_path / "s") == whole


@given(st.integers(1, 20), st.lists(st.integers(0, 99), unique=True).map(sorted))
def test_shares_are_parts_of_the_whole(of, batches):
    shares = [Share(number, of, "x") for number in range(1, of + 1)]
    assert sorted(n for share in shares for n in share.own(batches)) == batches
    for share in shares:
        assert sorted([*share.own(batches), *share.others(batches)]) == batches


def _array(task, first, last, count, step=1):
    return {
        f"SLURM_ARRAY_TASK_{name}": str(value)
        for name, value in {"ID": task, "MIN": first, "MAX": last, "COUNT": count, "STEP": step}.items()
    }


STEP = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}
TORCHRUN = {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "3"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6"}


@pytest.mark.parametrize(
    ("said", "number", "of"),
    [
        ({}, 1, 1),
        (TORCHRUN, 3, 3),
        (OPEN_MPI, 6, 6),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 2, 2),
        (STEP, 2, 4),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, 2, 4),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, 1, 1),  # the batch script itself
        ({**STEP, "RANK": "0", "WORLD_SIZE": "1"}, 2, 4),  # a torchrun of one says nothing
        ({**STEP, **TORCHRUN}, 3, 3),  # srun torchrun
        (_array(2, 0, 3, 4), 3, 4),
        (_array(20, 0, 30, 4, 10), 3, 4),  # --array=0-30:10
        (_array(1, 1, 16, 16), 1, 16),
        (_array(7, 3, 7, 2), 2, 2),  # --array=3,7, queued again
        (_array(7, 3, 12, 3), 5, 10),  # --array=3,7,12: those in between leave theirs to others
        (_array(9, 9, 9, 1), 1, 1),
        ({**_array(1, 0, 2, 3), **STEP}, 6, 12),
        ({**_array(2, 0, 2, 3), **TORCHRUN}, 9, 9),
    ],
)  # fmt: skip
def test_a_place_is_known_from_what_started_it(monkeypatch, said, number, of):
    _only(monkeypatch, said)
    share = share_of()
    assert (share.number, share.of) == (number, of)
    assert bool(share.by) == (of > 1)


def _only(monkeypatch, said):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "PMI_", "RANK", "WORLD_SIZE", "LOCAL_")):
            monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("said", "asked", "error"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, None, "RANK = 'x' is no number"),
        ({"WORLD_SIZE": "2"}, None, "WORLD_SIZE = 2 without RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, None, "process 2 of 2, says torchrun: there is none"),
        (_array(4, 0, 3, 4), None, "task 4 of a job array from 0 to 3"),
        ({}, "0/4", "--share '0/4' is no share: the third of sixteen is 3/16"),
        ({}, "5/4", "no share"),
        ({}, "3", "no share"),
        ({}, "\u0663/4", "no share"),
        (TORCHRUN, "1/4", "--share 1/4 beside 3 processes of torchrun: all of them would take it"),
    ],
)
def test_a_place_that_cannot_be(monkeypatch, said, asked, error):
    _only(monkeypatch, said)
    with pytest.raises(RankError, match=error):
        share_of(asked)


def test_a_share_that_is_asked_for_counts(monkeypatch):
    _only(monkeypatch, {**STEP, **_array(1, 0, 2, 3)})
    assert str(share_of("3/16")) == "share 3 of 16 (--share)"
    assert str(share_of()) == "share 6 of 12 (a Slurm step in a job array of 3)"


def test_under_slurm_each_task_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    here = {**STEP, "SLURM_LOCALID": "3", "SLURM_NODEID": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2),4"}
    _only(monkeypatch, here)
    assert device_of("auto") == "cuda:3"
    monkeypatch.setenv("SLURM_NODEID", "1")  # alone on its machine, as device maps want it
    assert (device_of("auto"), device_of("auto", "auto")) == ("auto", "auto")


@pytest.mark.slow
def test_a_task_of_a_job_array_says_its_share(tmp_path, whole):
    command = [str(Path(sys.executable).parent / "actstore"), "extract", "digits-fusion", str(tmp_path / "s")]
    changes = [word for change in SMALL for word in ("--set", change)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **_array(20, 10, 30, 3, 10)}
    done = subprocess.run([*command, *changes], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "8 of 24 samples left, share 2 of 3 (a job array of 3)" in done.stderr
    assert vectors(tmp_path / "s") == whole


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (device_of("auto"), device_of("cuda"), device_of("auto", "auto")) == ("auto", "cuda", "auto")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "8")
    for rank, device in ((0, "cuda:0"), (3, "cuda:3"), (5, "cuda:1")):
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, str(rank))
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


@pytest.mark.parametrize(
    ("share", "failed", "left", "status"),
    [
        (Share(), False, False, 0),
        (Share(), True, False, 3),
        (Share(), False, True, 3),
        (Share(3, 16, "--share"), False, True, 0),
        (Share(3, 16, "--share"), True, True, 3),
        (Share(1, 2, "torchrun", together=True), True, True, 0),
    ],
)
def test_what_others_hold_or_fails_is_no_status_of_a_rank(share, failed, left, status):
    found = 0
    try:
        _end_in_part(share, failed=failed, left=left)
    except Exit as ended:
        found = ended.exit_code
    assert found == status
