"""Work that an older version left unfinished goes on: golden/unfinished-1.tar.xz, of 0.1.0, is resumed, verified,
recomputed and repaired by every later one."""

import json
import tarfile
from pathlib import Path

import polars as pl
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import actstore
import making
from actstore.commands import main
from actstore.format.names import HEADER

GOLDEN = Path(__file__).parents[1] / "golden"
STORES = {"fusion": (4, 12), "mapped": (2, 8)}  # samples that are there, and of the plan
ADAPTER = ("data.digits.limit=16", "training.batch_size=4", "training.micro_batch=4", "training.epochs=2")


@pytest.fixture
def work(tmp_path):
    with tarfile.open(GOLDEN / "unfinished-1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def actstore_(*words):
    assert main.run([*map(str, words)]) == 0, words


def forget(path, *keys):
    """Take keys out of the recipe in a run card, as if the version that wrote it had not known them."""
    run = actstore.open(path).run
    for section, key in (key.split(".") for key in keys):
        del run["recipe"][section][key]
    commit = making.record(path, 0)
    making.change(path / HEADER, run=run)
    making.change(commit, store=json.loads((path / HEADER).read_bytes())["crc32c"])


@pytest.mark.parametrize("name", ["fusion", pytest.param("mapped", marks=pytest.mark.slow)])
def test_a_store_that_is_half_extracted_goes_on(work, name, capfd):
    path, (done, planned) = work / name, STORES[name]
    before = actstore.open(path)
    rows = before.sql("from rows order by row_id")
    vectors = before.residual(rows, before.layers[1])
    actstore_("verify", path)
    actstore_("extract", f"{path}.toml", path, "--device", "cpu")
    assert f"{planned - done} of {planned} samples left" in capfd.readouterr().err
    after = actstore.open(path)
    assert after.sql("select count(*) from samples where status = 'ok'").item() == planned
    assert (after.residual(rows, after.layers[1]) == vectors).all()
    actstore_("verify", path)
    actstore_("recompute", path, "-n", planned, "--device", "cpu")
    (next(path.glob("parts/b00000000-*")) / "rows.parquet").unlink()
    assert main.run(["verify", str(path)]) == 1
    actstore_("repair", path, "--device", "cpu")
    actstore_("verify", path)
    assert (actstore.open(path).residual(rows, after.layers[1]) == vectors).all()


def test_a_key_that_a_run_card_lacks_means_what_was_done_then(work, capfd):
    path = work / "fusion"
    forget(path, "capture.per_head", "model.processor")
    actstore_("extract", f"{path}.toml", path, "--device", "cpu")
    assert actstore.open(path).remaining == []
    forget(path := work / "mapped", "capture.lens", "model.dtype")
    assert main.run(["extract", f"{path}.toml", str(path), "--set", "capture.lens=true"]) == 1
    said = capfd.readouterr().err
    assert "capture.lens: False in the store, True now" in said
    assert "model.dtype" not in said


def train(out, *changes):
    sets = [word for change in (*ADAPTER, *changes) for word in ("--set", change)]
    return main.run(["train", "adapter", "digits-adapter", str(out), "--device", "cpu", *sets])


def test_an_adapter_that_is_half_trained_goes_on(work, tmp_path, capfd):
    before = pl.read_parquet(work / "adapter" / "log.parquet")
    assert train(work / "adapter") == 0
    assert "4 of 8 steps left" in capfd.readouterr().err
    assert pl.read_parquet(work / "adapter" / "log.parquet").head(4).equals(before)
    assert train(tmp_path / "whole") == 0
    one, other = (load_file(out / "adapter.safetensors") for out in (work / "adapter", tmp_path / "whole"))
    for name, weight in one.items():
        assert (weight - other[name]).abs().max() < 1e-4  # the first steps were on another machine


def test_a_key_that_a_checkpoint_lacks_means_what_was_done_then(work, capfd):
    path = work / "adapter" / "checkpoint.state"
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    made = json.loads(facts["made"])
    del made["training"]["weight_decay"], made["data"]["digits"]["samples"]["resize"], made["model"]["adapter"]
    save_file(load_file(path), path, {**facts, "made": json.dumps(made)})
    assert train(work / "adapter", "training.weight_decay=0.02") == 1
    assert "training.weight_decay: 0.01 in the checkpoint, 0.02 now" in capfd.readouterr().err
    assert train(work / "adapter", "training.weight_decay=0.01") == 0
