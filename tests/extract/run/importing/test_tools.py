"""Stores of what other tools wrote."""

import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import foreign
from actstore.commands.main import run

GOLDEN = Path(__file__).parents[3] / "golden" / "easyroutine.tar.xz"


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(foreign.LABELS)
    return path


@pytest.fixture
def easyroutine(tmp_path):
    """Runs that easyroutine 1.1.5 wrote, as `foreign.easyroutine` has it do."""
    with tarfile.open(GOLDEN) as held:
        held.extractall(tmp_path, filter="data")
    return tmp_path


def test_easyroutine(easyroutine, labels, capfd):
    store = foreign.imported(easyroutine / "plain", easyroutine / "s", "easyroutine", "--samples", labels)
    x = foreign.points(4, torch.bfloat16).float().numpy()
    assert (store.header.dtype, store.layers, store.roles) == ("bfloat16", (0, 1, 2), ["all-text", "eoi", "last"])
    for layer in range(3):
        assert np.array_equal(foreign.vectors(store, "last", layer), x[layer, :, 0])
        assert np.array_equal(foreign.vectors(store, "eoi", layer), x[layer, :, 1])
        assert np.array_equal(foreign.vectors(store, "all-text", layer), x[layer, :, 2:].reshape(-1, foreign.WIDTH))
    found = store.sql("select position, label from rows where role = 'last' order by sample_id").rows()
    assert found == [(6, "dog"), (7, "cat"), (8, "dog"), (9, "cat")]
    assert store.run["model"] == "facebook/chameleon-7b"
    said = capfd.readouterr().err
    assert "end-image is the role eoi" in said
    assert "left out, as no residual points: mlp_out_0, mlp_out_1" in said
    assert "4 of 4 samples were left" in said
    assert "0 of 4 samples were left" in said


def test_easyroutine_averaged(easyroutine):
    store = foreign.imported(easyroutine / "averaged", easyroutine / "s", "easyroutine")
    x = foreign.points(3, torch.bfloat16).float().numpy()
    assert store.roles == ["all-text-avg", "eoi-avg", "last-avg"]
    assert np.array_equal(foreign.vectors(store, "all-text-avg", 2), x[2, :, 2])
    assert store.sql("select distinct position from rows").item() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mapping_index": {"last": [0], "end-image": [1]}},
            "mapping_index names positions [0, 1], the vectors have 4",
        ),
        (
            {"resid_out_1": [torch.ones(1, 3, 8), torch.ones(1, 2, 8)]},
            "resid_out_1 is no tensor (samples, positions, d)",
        ),
        ({"resid_out_1": torch.ones(4, 3, 8)}, "residual points of several shapes"),
        ({"resid_in_1": torch.ones(4, 4, 8)}, "is not the residual point that its neighbour is"),
    ],
)
def test_a_cache_of_easyroutine_that_says_something_else(tmp_path, capfd, change, message):
    x = foreign.points(4)
    cache = {f"resid_{way}_{block}": x[block + (way == "out")] for block in range(2) for way in ("in", "out")}
    cache["mapping_index"] = {"last": [0], "end-image": [1], "all-text": [2, 3]}
    torch.save({**cache, **change}, tmp_path / "tensor.pt")
    (tmp_path / "metadata.json").write_text("{}")
    assert run(["import", str(tmp_path), str(tmp_path / "s"), "--as", "easyroutine"]) == 1
    assert message in capfd.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("version", "cls"), [(1, True), (2, False), (3, True)])
def test_saev(tmp_path, labels, version, cls):
    x = foreign.saev(tmp_path / "shards", version=version, cls=cls).numpy()
    store = foreign.imported(tmp_path / "shards", tmp_path / "s", "saev", "--samples", labels)
    assert store.layers == (1, 2)
    assert store.roles == (["cls", "image"] if cls else ["image"])
    for layer in (1, 2):
        patches = x[layer - 1, :, int(cls) :].reshape(-1, foreign.WIDTH)
        assert np.array_equal(foreign.vectors(store, "image", layer), patches)
    assert store.sql("select max(k) from rows where role = 'image'").item() == 2 - cls


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [1, 0]}, "layers [1, 0] are not ascending from 0"),
        ({"layers": [-2, -1]}, "are not ascending from 0"),
        ({"n_ex": 7}, "acts000002.bin does not exist: a shard is missing"),
        ({"n_ex": 6}, "all its numbers are 0 at every layer"),
        ({"d_model": 16}, "its copy was cut, or metadata are of others"),
        ({"dtype": "float16"}, "numbers of float16; shards are read as float32"),
        ({"ckpt": 3}, "it is not saev's"),
    ],
)
def test_shards_that_are_not_what_their_metadata_say(tmp_path, capfd, change, message):
    foreign.saev(tmp_path / "shards", **change)
    assert run(["import", str(tmp_path / "shards"), str(tmp_path / "s"), "--as", "saev"]) == 1
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([{"name": "acts000000.bin", "n_ex": 3}, {"name": "acts000001.bin", "n_ex": 1}], None),
        ([{"name": "acts000000.bin", "n_ex": 3}], "shards of 3 examples, metadata of 4; the run did not end"),
        ([{"name": "../acts000000.bin", "n_ex": 4}], "names no shard"),
        ({"acts000000.bin": 4}, "names no shard"),
    ],
)
def test_a_list_of_shards(tmp_path, capfd, shards, message):
    foreign.saev(tmp_path / "shards")
    (tmp_path / "shards" / "shards.json").write_text(json.dumps(shards))
    assert run(["import", str(tmp_path / "shards"), str(tmp_path / "s"), "--as", "saev"]) == bool(message)
    assert (message or "all are in it") in capfd.readouterr().err


def test_vlm_lens_pooled(tmp_path):
    x = foreign.vlm_lens(tmp_path / "llava.db").numpy()
    store = foreign.imported(tmp_path / "llava.db", tmp_path / "s", "vlm-lens")
    assert (store.layers, store.roles, store.run["model"]) == ((1, 2), ["all-mean"], "llava")
    assert np.array_equal(foreign.vectors(store, "all-mean", 2), x[1, :, 0])
    assert store.sql("select label, image, prompt from rows order by sample_id limit 1").row(0) == (
        "dog",
        "/p/0.jpg",
        "What is it?",
    )


def test_vlm_lens_whole(tmp_path):
    x = foreign.vlm_lens(tmp_path / "llava.db", pooled=False).numpy()
    store = foreign.imported(tmp_path / "llava.db", tmp_path / "s", "vlm-lens")
    assert np.array_equal(foreign.vectors(store, "all", 1), x[0].reshape(-1, foreign.WIDTH))
    assert store.sql("select max(position) from rows").item() == 2


@pytest.mark.parametrize(
    ("statement", "options", "message"),
    [
        ("update tensors set layer = 'mm_projector'", [], "no module is called *layers.{block}"),
        ("update tensors set layer = 'layers.0'", [], "rows 1 and 2 are both of layer 1"),
        ("update tensors set name = 'other' where id < 3", [], "is of models llava, other: say which, --model NAME"),
        ("update tensors set name = 'other' where id < 3", ["--model", "llama"], "did you mean 'llava'?"),
        ("delete from tensors where id = 3", [], "has role 'all-mean' at layer 1"),
        (
            "update tensors set layer = replace(layer, 'language_model.model', 'vision_tower') where layer like '%.0'",
            [],
            "are of different parts of a model",
        ),
        ("update tensors set tensor = substr(tensor, 1, 400) where id = 8", [], "row 8: cannot be read"),
        ("update tensors set tensor = 'x'", [], "row 1: its tensor is str, not what torch saved"),
        ("alter table tensors rename column layer to module", [], "has no column layer; it is not vlm-lens'"),
        ("drop table tensors", [], "has no column id"),
    ],
)
def test_a_database_that_says_something_else(tmp_path, capfd, statement, options, message):
    import sqlite3

    foreign.vlm_lens(tmp_path / "llava.db")
    with sqlite3.connect(tmp_path / "llava.db") as database:
        database.execute(statement)
    database.close()
    assert run(["import", str(tmp_path / "llava.db"), str(tmp_path / "s"), "--as", "vlm-lens", *options]) == 1
    assert message in capfd.readouterr().err


def test_one_model_of_several_in_a_database(tmp_path):
    import sqlite3

    foreign.vlm_lens(tmp_path / "llava.db")
    with sqlite3.connect(tmp_path / "llava.db") as database:
        database.execute("update tensors set name = 'other' where image_id = 0")
    database.close()
    store = foreign.imported(tmp_path / "llava.db", tmp_path / "s", "vlm-lens", "--model", "llava")
    assert store.sql("from samples").height == foreign.SAMPLES - 1


def test_no_code_of_a_file_is_run(tmp_path, capfd):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    class System:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    for kind, file in (("easyroutine", "tensor.pt"), ("pt", "x.pt"), ("transformer-lens", "x.pt")):
        torch.save({"resid_out_0": torch.ones(1, 1, 2), "x": Payload()}, tmp_path / file)
        (tmp_path / "metadata.json").write_text(json.dumps({}))
        source = tmp_path if kind == "easyroutine" else tmp_path / file
        assert (
            run(["import", str(source), str(tmp_path / "s"), "--as", kind, *(["--axes", "x"] if kind == "pt" else [])])
            == 1
        )
        assert "to read that would be to run its code" in capfd.readouterr().err
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"resid_out_0": Payload()}))
    assert run(["import", str(tmp_path / "x.pt"), str(tmp_path / "s"), "--as", "pt", "--axes", "x"]) == 1
    said = capfd.readouterr().err
    assert "x.pt is a pickle that torch did not save, which may run code: save the tensors alone" in said
    assert "weights_only" not in said  # torch's own advice, to run the code
    torch.save({"resid_out_0": System()}, tmp_path / "x.pt")
    assert run(["import", str(tmp_path / "x.pt"), str(tmp_path / "s"), "--as", "pt", "--axes", "x"]) == 1
    assert "x.pt holds an object of posix.system, and to read that would be" in capfd.readouterr().err
    np.save(tmp_path / "x.npy", np.array([Payload()], object), allow_pickle=True)
    assert run(["import", str(tmp_path / "x.npy"), str(tmp_path / "s"), "--as", "npy", "--axes", "feature"]) == 1
    assert "cannot be read" in capfd.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_measures_take_what_was_imported(easyroutine, labels, capfd):
    foreign.imported(easyroutine / "plain", easyroutine / "s", "easyroutine", "--samples", labels)
    assert run(["info", str(easyroutine / "s"), "--format", "table"]) == 0
    assert "imported  from plain, as easyroutine" in capfd.readouterr().out
    assert run(["overlap", str(easyroutine / "s"), "--label", "label", "-k", "1", "--roles", "eoi"]) == 0
    assert run(["query", str(easyroutine / "s"), "select count(*) as n from rows", "--format", "csv"]) == 0
    assert capfd.readouterr().out.endswith("n\n16\n")
