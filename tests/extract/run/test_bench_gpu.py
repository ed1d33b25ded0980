"""The benchmark that waits for a GPU runs: tiny, on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
TINY = ["--device", "cpu", "--shape", "small", "--samples", "4", "--batch-sizes", "2,1"]


def ran(path, *more):
    done = subprocess.run(
        [sys.executable, BENCH / "gpu.py", *TINY, "--json", path, *more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


@pytest.mark.slow
def test_every_case_is_measured_at_every_batch_size(tmp_path):
    said, rows = ran(tmp_path / "gpu.json")
    speeds = [row for row in rows if row["beside"] == "bare forward" and row["unit"] == "tokens/s"]
    assert len(speeds) == 10
    assert {row["what"].rpartition("; ")[2] for row in speeds} == {"batches of 2", "batches of 1"}
    assert all(row["ours"] > 0 < row["baseline"] for row in speeds)
    assert {row["goal"] for row in rows if row["goal"]} == {">= 0.95", ">= 0.9", ">= 0.8"}
    assert "function calls" in said  # the profile


@pytest.mark.slow
def test_what_there_is_no_time_for_is_said(tmp_path):
    said, rows = ran(tmp_path / "gpu.json", "--minutes", "0")
    assert said.count("left out, no time") == 10
    assert [row["what"] for row in rows] == ["largest memory of the process"]
