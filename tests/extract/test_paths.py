"""Paths of tables, vectors and data sets: polars and datasets would take them for patterns, homes and addresses."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from actstore.commands import main
from actstore_extract.interventions.steers import SteerSection
from actstore_extract.replay.donors import from_file
from actstore_extract.samples import SamplesError
from actstore_extract.training.log import Row, read_log, write_log
from sampling import source

NAMES = ["run[1]", "~", "file:x"]


@pytest.fixture(params=NAMES)
def places(request, tmp_path, monkeypatch):
    """A folder, and those that would be read and written in its place."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    others = [Path("run1"), tmp_path / "home"]
    for path in (Path(request.param), *others):
        path.mkdir()
    return Path(request.param), others


def put(path, frame):
    write = {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".jsonl": frame.write_ndjson}[path.suffix]
    with path.open("wb") as file:
        write(file)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_tables_of_samples(places, suffix):
    own, others = places
    for path, label in ((own, "own"), *((other, "other") for other in others)):
        put(path / f"t.{suffix}", pl.DataFrame({"label": [label]}))
    assert source("table", path=own / f"t.{suffix}").samples().table["label"].to_list() == ["own"]
    (own / f"t.{suffix}").unlink()
    with pytest.raises(SamplesError, match="does not exist"):
        source("table", path=own / f"t.{suffix}").samples()


def test_vectors_of_files(places):
    own, others = places
    for path, value in ((own, 1.0), *((other, 2.0) for other in others)):
        put(path / "v.parquet", pl.DataFrame({"row_id": [0], "layer_1": [[value, value]]}))
    section = SteerSection(name="eoi-steer", layers=[1], vector=str(own / "v.parquet"))
    (steered,) = section.conditions(n_layers=2, seed=0)
    assert steered.steer.vector.tolist() == [1, 1]
    assert np.array_equal(from_file(own / "v.parquet", 2, [1]).vectors(1), [[1, 1]])


def test_logs_of_trainings(places):
    own, others = places
    row = Row(0, 0, 0.5, 0.1, 1.0, 4, 0, 0, 0, 1.0)
    for other in others:
        write_log(other.absolute(), [row, row])
    write_log(own, [row])
    assert read_log(own) == [row]
    assert [len(read_log(other.absolute())) for other in others] == [2, 2]


def test_data_sets_for_load_dataset(places, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    own, others = places
    for path, label in ((own, "own"), *((other, "other") for other in others)):
        (path / "data").mkdir()
        put(path / "data" / "train.jsonl", pl.DataFrame({"label": [label]}))
    data = source("hub", path=str(own / "data"), image="")
    if "[" in str(own):
        with pytest.raises(SamplesError, match="would take .* for a pattern; rename the folder"):
            data.samples()
    else:
        assert data.samples().table["label"].to_list() == ["own"]


@pytest.mark.parametrize("place", ["file", "/proc/store"])
def test_where_no_store_can_be_is_said_before_the_model_is_loaded(tmp_path, monkeypatch, capsys, place):
    (tmp_path / "file").touch()
    monkeypatch.setattr("actstore_extract.run.runner.load", None)
    assert main.run(["extract", "digits-fusion", str(tmp_path / place), "--limit", "2"]) == 1
    said = capsys.readouterr().err
    assert "exists already" in said or "cannot be created" in said
