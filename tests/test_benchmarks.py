"""The benchmarks run, at their small sizes; the one that waits for a GPU tiny, on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"
PROGRAMS = ["startup", "store", "index", "measures", "extraction", "rivals", "dadapy", "replay", "remote"]
TINY = ["--device", "cpu", "--shape", "small", "--samples", "4", "--batch-sizes", "2,1"]

pytestmark = pytest.mark.slow


def ran(program, path, *more):
    """What it says, and its rows."""
    command = [sys.executable, BENCH / f"{program}.py", "--json", path, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_measures(program, tmp_path):
    _, rows = ran(program, tmp_path / "rows.json", "--quick")
    assert len(rows) > 4
    assert all(row["program"] == program and row["ours"] >= 0 for row in rows)


def test_one_table_one_file_and_one_figure(tmp_path):
    command = [sys.executable, BENCH, "--quick", "--out", tmp_path, "startup", "dadapy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.png"]
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    goals = [row for row in rows if row["met"] is not None]
    assert f"{sum(row['met'] for row in goals)} of {len(goals)} goals met" in done.stdout


def test_a_program_that_fails_is_said_and_in_the_status(tmp_path):
    (tmp_path / "duckdb.py").write_text("raise SystemExit('no')")
    command = [sys.executable, BENCH, "--quick", "--out", tmp_path / "out", "index"]
    path = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=path)
    assert done.returncode == 1
    assert "index failed" in done.stdout


def test_every_case_of_a_gpu_is_measured_at_every_batch_size(tmp_path):
    said, rows = ran("gpu", tmp_path / "gpu.json", *TINY)
    speeds = [row for row in rows if row["beside"] == "bare forward" and row["unit"] == "tokens/s"]
    assert len(speeds) == 10
    assert {row["what"].rpartition("; ")[2] for row in speeds} == {"batches of 2", "batches of 1"}
    assert all(row["ours"] > 0 < row["baseline"] for row in speeds)
    assert {row["goal"] for row in rows if row["goal"]} == {">= 0.95", ">= 0.9", ">= 0.8", "<= 10"}
    assert "function calls" in said  # the profile
    measures = [row["what"] for row in rows if row["beside"] == "numpy"]
    assert [what.partition(" of ")[0] for what in measures] == ["gap", "CKA", "autoencoder", "neighbours"]


def test_what_there_is_no_time_for_on_a_gpu_is_said(tmp_path):
    said, rows = ran("gpu", tmp_path / "gpu.json", *TINY, "--minutes", "0")
    assert said.count("left out, no time") == 11  # the measures are one
    assert [row["what"] for row in rows] == ["largest memory of the process"]
