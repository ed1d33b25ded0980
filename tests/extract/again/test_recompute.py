"""actstore recompute: what a store holds against the model, run again."""

import dataclasses
import re
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import actstore
import making
from actstore import ActstoreError
from actstore.commands import main
from actstore.format import records
from actstore_extract.again.differences import TOLERANCES
from actstore_extract.again.recompute import chosen, recompute
from actstore_extract.recipe import recipe
from actstore_extract.run.extractor import Extractor
from actstore_extract.run.runner import Run
from actstore_extract.shipped import MODELS
from extracting import extract

KEPT = (
    "capture.attention=['eoi']",
    "capture.mass=true",
    "capture.kv=['eoi']",
    "capture.answers=['seven', 'one']",
    "capture.max_new_tokens=2",
    "capture.batch_size=4",
    "capture.part_samples=12",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    extract(path, *KEPT)
    return path


def by_name(done):
    return {row["what"]: row for row in done.table.iter_rows(named=True)}


def test_the_same_run_is_bit_equal(whole):
    done = recompute(whole, n=6)
    found = by_name(done)
    assert list(found) == [
        "answers",
        "attention/eoi",
        "attention/mass",
        "generated text",
        "keys/eoi",
        "next token",
        "positions",
        *(f"residual/{role}" for role in actstore.open(whole).roles),
        "values/eoi",
    ]
    assert {name: row["compared"] for name, row in found.items() if "/" not in name} == {
        "answers": 6,
        "generated text": 6,
        "next token": 6,
        "positions": 6 * 22,
    }
    assert found["residual/image"]["compared"] == 6 * 7 * 16
    assert all(row["compared"] == row["bit_equal"] and row["furthest"] == 0 for row in found.values())
    assert done.differing.is_empty()
    assert done.worst is None


def test_only_batches_with_a_chosen_sample_are_run(whole, monkeypatch):
    start, calls = Extractor._start, []

    def counted(self, encoded, condition):
        calls.append([sample.sample_id for sample in encoded])
        return start(self, encoded, condition)

    monkeypatch.setattr(Extractor, "_start", counted)
    recompute(whole, sql="select sample_id from samples where sample_id in ('digit-0005', 'digit-0013')")
    assert calls == [[f"digit-{i:04}" for i in (4, 5, 6, 7)], [f"digit-{i:04}" for i in (12, 13, 14, 15)]]


def test_the_choice_is_seeded(whole):
    store = actstore.open(whole)
    sql = "from samples where sample_id > 'digit-0003'"
    one, again, other = (chosen(store, sql, 5, seed)["sample_id"].to_list() for seed in (0, 0, 1))
    assert one == again != other
    assert len(set(one)) == 5
    assert min(one) > "digit-0003"
    assert chosen(store, sql, 99, 0).height == 20
    with pytest.raises(ActstoreError, match="the query lists no sample that was run"):
        chosen(store, "from samples where label = 'cat'", 5, 0)
    with pytest.raises(ActstoreError, match="no column sample_id, only label"):
        chosen(store, "select label from samples", 5, 0)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float16", marks=pytest.mark.slow), "bfloat16"])
def test_another_kernel_and_batch_are_said_and_within_tolerance(tmp_path, dtype):
    extract(tmp_path / "s", *KEPT, f"model.dtype={dtype}", "samples.limit=12")
    done = recompute(tmp_path / "s", n=4, batch_size=1, overrides=["model.attention=eager"])
    assert done.differing["name"].to_list() == ["batch size", "attention"]
    assert done.differing.row(0) == ("batch size", "4", "1")
    assert done.differing.row(1) == ("attention", "sdpa", "eager")
    furthest = max(row["furthest"] for name, row in by_name(done).items() if name != "generated text")
    assert 0 < furthest < TOLERANCES[dtype] / 2
    assert done.worst is None
    tight = recompute(tmp_path / "s", n=4, batch_size=1, allowed=furthest / 2, overrides=["model.attention=eager"])
    assert tight.worst["furthest"] == furthest
    assert tight.worst["sample_id"] in done.table["sample_id"].to_list()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda made: {"residual": made.residual | {"eoi": np.roll(made.residual["eoi"], 1, 0)}}, "residual/eoi"),
        (lambda made: {"residual": made.residual | {"last": made.residual["last"][:, ::-1]}}, "residual/last"),
        (lambda made: {"attention": made.attention | {"eoi": made.attention["eoi"] * 1.2}}, "attention/eoi"),
        (lambda made: {"rows": made.rows.with_columns(pl.col("position") + 1)}, "positions"),
    ],
    ids=["layers", "samples", "attention", "positions"],
)
def test_what_is_another_is_out_of_tolerance(whole, monkeypatch, change, what):
    content = Extractor.content

    def other(self, *arguments, **options):
        made = content(self, *arguments, **options)
        return dataclasses.replace(made, **change(made))

    monkeypatch.setattr(Extractor, "content", other)
    assert recompute(whole, n=2).worst["what"] == what


def test_the_conditions_of_a_recipe(tmp_path):
    extract(tmp_path / "s", "conditions=['eoi-knockout']", "samples.limit=6")
    done = recompute(tmp_path / "s", sql="from samples where condition = 'eoi-knockout'", n=3)
    assert (done.table["compared"] == done.table["bit_equal"]).all()
    assert by_name(done)["next token"]["compared"] == 3


# What must be at hand


def test_a_model_that_is_not_at_hand_or_another(tmp_path):
    folder = shutil.copytree(MODELS["digits-fusion"], tmp_path / "model")
    extract(tmp_path / "s", f"model.path={folder}", "samples.limit=4")
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(ActstoreError, match="no model at '.*/model'; it is neither a folder nor"):
        recompute(tmp_path / "s")
    assert recompute(tmp_path / "s", overrides=[f"model.path={moved}"]).worst is None
    with (moved / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ActstoreError, match=r"other weights than those in .*/moved: weights_sha256 \w{12} in its"):
        recompute(tmp_path / "s", overrides=[f"model.path={moved}"])


def test_other_weights_are_compared_where_that_is_asked_for(whole, tmp_path, capsys):
    moved = shutil.copytree(MODELS["digits-fusion"], tmp_path / "model")
    tensors = load_file(moved / "model.safetensors")
    name = next(name for name in tensors if name.endswith("down_proj.weight"))
    save_file(tensors | {name: tensors[name] * 1.5}, moved / "model.safetensors", metadata={"format": "pt"})
    arguments = ["recompute", str(whole), "-n", "2", "--set", f"model.path={moved}", "--format", "csv"]
    assert main.run(arguments) == 1
    assert "was made with other weights than those in" in capsys.readouterr().err
    assert main.run([*arguments, "--other-weights"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"weights_sha256 differs: \w{64} then, \w{64} now", err)
    assert "away from what is stored" in err
    assert "residual/eoi" in out


def test_pictures_that_are_not_at_hand(tmp_path):
    folder = tmp_path / "pictures" / "cat"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), 50 * i, np.uint8)).save(folder / f"{i}.png")
    keys = [f"samples={{source='imagefolder', path='{folder.parent}'}}"]
    Run(recipe.load("digits-fusion", keys)).extract(tmp_path / "s")
    assert recompute(tmp_path / "s").worst is None
    (folder / "2.png").unlink()
    with pytest.raises(ActstoreError, match=r"sample cat/2.png was run when the store was made, and cannot be run now"):
        recompute(tmp_path / "s", n=4)
    shutil.rmtree(folder.parent)
    with pytest.raises(ActstoreError, match="pictures does not exist; set samples.path"):
        recompute(tmp_path / "s")


def test_a_store_that_no_recipe_made(tmp_path):
    with pytest.raises(ActstoreError, match="has no recipe in its run card"):
        recompute(making.store(tmp_path / "s").path)


def test_other_versions_are_said(whole, tmp_path):
    path = shutil.copytree(whole, tmp_path / "s")
    for record in (path / "commits").iterdir():
        by = records.load(record)["by"]
        making.change(record, by={**by, "versions": {**by["versions"], "torch": "1.0"}, "device": "NVIDIA Z9"})
    done = recompute(path, n=1)
    assert dict(done.differing.select("name", "then").iter_rows()) == {"device": "NVIDIA Z9", "torch": "1.0"}


def test_the_command(whole, capsys):
    assert main.run(["recompute", str(whole), "-n", "2", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "what,compared,bit_equal,furthest,tolerance,within,sample_id,condition,layer"
    assert "batch size, device, attention, versions and weights are those of the run card" in err
    arguments = ["recompute", str(whole), "-n", "2", "--set", "model.attention=eager", "--tolerance", "0"]
    assert main.run([*arguments, "--format", "csv"]) == 1
    err = capsys.readouterr().err
    assert "attention differs: sdpa then, eager now" in err
    assert re.search(r"of sample digit-\d+ \(condition none.*\) is \S+ away from what is stored; 0 is allowed", err)


def test_a_damaged_store_is_said(whole, tmp_path, capsys):
    path = shutil.copytree(whole, tmp_path / "s")
    for shard in path.glob("parts/*/residual/eoi/c/*/*/*"):
        shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert main.run(["recompute", str(path), "-n", "2", "--format", "csv"]) == 1
    out, err = capsys.readouterr()
    assert "residual/image" in out
    assert "residual/eoi/c/0/0/0: its index differs from what was committed" in err
    assert f"{path} is damaged: what is named above could not be read and was not compared; actstore verify" in err
    assert "actstore repair makes it again" in err
