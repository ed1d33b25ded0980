"""What a run needs, from the recipe and the configuration alone, held against what models and stores really are."""

import json

import pytest
from transformers.utils import is_torchvision_available

import actstore
import tiny
from actstore.commands.main import run
from actstore_extract.families import Prompt
from actstore_extract.recipe.recipe import load
from actstore_extract.recipe.shelf import shipped
from actstore_extract.run.arithmetic import arithmetic

RECIPE = """
[model]
path = "{path}"
dtype = "float32"
[samples]
source = "imagefolder"
path = "/nowhere"
limit = 10
[prompt]
text = "{marker} this animal is a {{label}}"
[capture]
roles = ["last"]
layers = [-1]
"""


def bare(name, folder):
    """A tiny system as a folder of configuration and processor, its weights taken away."""
    model = tiny.model(name)
    tiny.save(model, folder)
    for path in folder.rglob("*.safetensors"):
        if "adapter" not in path.name:
            path.unlink()
    return model


NEEDS_TORCHVISION = pytest.mark.skipif(not is_torchvision_available(), reason="its processor needs torchvision")
SYSTEMS = [
    *("chameleon", "emu3", "janus", "clip_gemma"),
    *(pytest.param(name, marks=NEEDS_TORCHVISION) for name in ("llava_onevision", "pixtral")),
]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_model_without_weights_has_the_sizes_of_the_model(name, tmp_path):
    model = bare(name, tmp_path / "model")
    (tmp_path / "r.toml").write_text(RECIPE.format(path=tmp_path / "model", marker="<image>"))
    facts, found = arithmetic(load(str(tmp_path / "r.toml"), ["samples.resize=8"]))
    real = sum(weight.numel() for weight in model.module.parameters())
    linear = 33 * tiny.D_MODEL if name == "clip_gemma" else 0  # what goes between the parts is no part
    assert facts.parameters == real - linear
    assert (facts.layers, facts.width, facts.heads) == (tiny.N_LAYERS, tiny.D_MODEL, tiny.N_HEADS)
    layout = model.encode(Prompt("s", "<image> this animal is a " + "word " * 12, tiny.image(0, (8, 8)))).layout
    assert facts.image_tokens == len(layout.image) + len(layout.eol)
    assert facts.text_tokens == len(layout.text)
    assert facts.kv_width == model.facts()["n_kv_heads"] * model.facts()["head_dim"]
    assert found.samples == 10
    assert found.store_gb == 10 * tiny.D_MODEL * 4 / 1e9  # one vector a sample


def test_the_store_is_as_large_as_the_arithmetic_says(tmp_path, capsys):
    changes = ["capture.roles=['eoi', 'image']", "capture.mass=false"]
    asked = ["digits-fusion", str(tmp_path / "s"), "--limit", "8", *(f"--set={change}" for change in changes)]
    assert run(["extract", *asked, "--arithmetic"]) == 0
    assert not (tmp_path / "s").exists()
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    _, found = arithmetic(load("digits-fusion", ["samples.limit=8", *changes]))
    assert (row["samples"], row["store_gb"]) == (8, round(found.store_gb, 3))
    assert run(["extract", *asked]) == 0
    store = actstore.open(tmp_path / "s")
    rows = store.sql("from rows").height
    itemsize = {"float32": 4, "bfloat16": 2}[store.header.dtype]
    assert found.store_gb * 1e9 == rows * len(store.layers) * store.header.d_model * itemsize


def test_a_copy_of_a_shipped_recipe_needs_what_that_needs(tmp_path):
    """Neither weights nor configuration nor data are there."""
    for name in ("chameleon-7b/knockout-vqa", "emu3/patching", "clip-gemma-2-2b/sae"):
        (tmp_path / "mine.toml").write_text(shipped()[name].text)
        mine = load(str(tmp_path / "mine.toml"), ["capture.batch_size=4"])
        own = load(name, ["capture.batch_size=4"])
        assert arithmetic(mine)[1] == arithmetic(own)[1]


def test_what_cannot_be_known_is_said(tmp_path, capsys):
    (tmp_path / "r.toml").write_text(RECIPE.format(path="digits-fusion", marker="<image>").replace("limit = 10\n", ""))
    assert run(["extract", str(tmp_path / "r.toml"), "s", "--arithmetic"]) == 1
    assert "nothing but the data says how many samples there are: say --limit N" in capsys.readouterr().err
    assert run(["extract", "chameleon-7b/vqa", "s", "--arithmetic", "--set", f"model.path='{tmp_path}'"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
