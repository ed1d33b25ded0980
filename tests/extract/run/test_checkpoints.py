"""What is said of a checkpoint: its own number type, taken where a recipe has none, and weights without a place."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import actstore
import tiny
from actstore.commands import main

RECIPE = """
check = false
[model]
path = "{folder}/model"
[samples]
source = "table"
path = "{folder}/prompts.jsonl"
[capture]
roles = ["last"]
"""
TEXT = "this digit is a one"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tiny.save(tiny.model("llama"), folder / "model")
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": TEXT}))
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder))
    return folder


def extract(folder, path, *words):
    return main.run(["extract", str(folder / "recipe.toml"), str(path), "--device", "cpu", *words])


def says(folder, dtype):
    """Write a number type into the configuration; None takes it out."""
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text())
    config.pop("dtype", None)
    path.write_text(json.dumps(config if dtype is None else {**config, "dtype": dtype}))


@pytest.mark.parametrize("said", ["float32", None], ids=["configuration", "weights"])
def test_the_checkpoint_s_own_is_taken_and_said(made, tmp_path, capfd, said):
    says(made, said)
    assert extract(made, tmp_path / "s") == 0
    assert "runs in float32, as its checkpoint is; --dtype says another" in capfd.readouterr().err
    store = actstore.open(tmp_path / "s")
    assert (store.run["dtype"], store.run["recipe"]["model"]["dtype"], store.header.dtype) == ("float32",) * 3
    model = AutoModelForCausalLM.from_pretrained(made / "model", dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(made / "model")(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = model(ids, output_hidden_states=True).hidden_states[2][0, -1].numpy()
    assert np.abs(store.residual(store.sql("from rows"), 2)[0] - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_store_goes_on_in_the_type_it_was_begun_in(made, tmp_path, capfd):
    says(made, "float32")
    assert extract(made, tmp_path / "s", "--dtype", "bfloat16") == 0
    assert "as its checkpoint is" not in capfd.readouterr().err
    assert extract(made, tmp_path / "s") == 0
    assert "0 of 1 samples left" in capfd.readouterr().err
    assert main.run(["recompute", str(tmp_path / "s"), "--device", "cpu", "--format", "csv"]) == 0
    assert extract(made, tmp_path / "s", "--dtype", "float32") == 1
    assert "model.dtype: 'bfloat16' in the store, 'float32' now" in capfd.readouterr().err


def test_a_type_that_no_model_runs_in_is_refused(made, tmp_path, capfd):
    says(made, None)
    weights = made / "model" / "model.safetensors"
    kept = load_file(weights)
    save_file({name: x.double() for name, x in kept.items()}, weights, {"format": "pt"})
    assert extract(made, tmp_path / "s") == 1
    assert "is in float64: set dtype in [model], to bfloat16, float16, float32" in capfd.readouterr().err
    assert not (tmp_path / "s").exists()
    save_file(kept, weights, {"format": "pt"})


def test_weights_without_a_place_are_said(made, tmp_path, capfd):
    """A configuration of fewer blocks than the checkpoint has runs them alone."""
    says(made, "float32")
    path = made / "model" / "config.json"
    kept = path.read_text()
    config = json.loads(kept)
    assert extract(made, tmp_path / "s") == 0
    assert "no place" not in capfd.readouterr().err
    path.write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] - 1}))
    assert extract(made, tmp_path / "t") == 0
    said = "9 weights of the checkpoint have no place in LlamaForCausalLM and did nothing, such as model.layers.3."
    assert said in capfd.readouterr().err
    path.write_text(kept)
