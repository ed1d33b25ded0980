"""The folder that a training writes."""

import os

from safetensors import safe_open

import trainings
from actstore_extract.training.program import train_adapter


def test_the_same_training_writes_the_same_bytes_and_once(folder, tmp_path):
    """Stores name the weights that made them by the hash of the file."""
    made, out = trainings.adapter_recipe(folder, "training.epochs=1"), tmp_path / "out"
    for path in (out, tmp_path / "again"):
        train_adapter(made, path, device="cpu")
    assert (out / "adapter.safetensors").read_bytes() == (tmp_path / "again" / "adapter.safetensors").read_bytes()
    with safe_open(out / "adapter.safetensors", "pt") as file:
        assert len(file.metadata()) == 1  # several would be written in any order
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert train_adapter(made, out, device="cpu").finished
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before
    (out / "adapter.safetensors").unlink()  # as if it had died between the last step and this
    assert train_adapter(made, out, device="cpu").finished
    assert (out / "adapter.safetensors").read_bytes() == before["adapter.safetensors"][0]


def test_files_are_for_those_whom_the_umask_lets_read(folder, tmp_path):
    before = os.umask(0o027)
    try:
        train_adapter(trainings.adapter_recipe(folder, "training.epochs=1"), tmp_path / "out", device="cpu")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == dict.fromkeys(
        ["adapter.safetensors", "checkpoint.state", "log.parquet", "log.png", "parts.toml"], 0o640
    )
