"""Emu3's image part, through the command line: the image's size and the end of the frame belong to it, as the paper has
it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import actstore
import tiny
from actstore.commands.main import run
from two_sided import command

LENGTH, BOI, EOI = 32, 1, 27  # BOS, start, 4 * 4, token, 4 lines of 4 with their ends, end of frame, end, text
RECIPE = f"""
check = false
conditions = [
    "image-knockout",
    {{ name = "every-position", keys = [{", ".join(f'"at-{i}"' for i in range(BOI, EOI))}] }},
]
[model]
path = "model"
dtype = "float32"
[samples]
source = "table"
path = "images.jsonl"
[prompt]
text = "<image> this digit is a"
[capture]
roles = ["image-size", "last"]
mass = true
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emu3")
    tiny.save(tiny.model("emu3"), folder / "model")
    for i in range(3):
        tiny.image(i, (8, 8)).save(folder / f"{i}.png")
    lines = [json.dumps({"sample_id": f"s{i}", "image": f"{i}.png", "label": "one"}) + "\n" for i in range(3)]
    (folder / "images.jsonl").write_text("".join(lines))
    (folder / "recipe.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["extract", "recipe.toml", "store", "--device", "cpu"]) == 0
    return folder / "store"


@torch.no_grad()
def shares(store, first):
    """Of the model's own attention, from the text behind the image to positions from `first` to its end, by layer."""
    model = tiny.model("emu3")
    model.module.set_attn_implementation("eager")
    mass = 0
    for i in range(3):
        prompt = tiny.prompts(["<image> this digit is a"])[0]._replace(image=Image.open(store.parent / f"{i}.png"))
        batch = model.collate([model.encode(prompt)])
        found = model.module(**batch.inputs, output_attentions=True).attentions
        assert found[0].shape[-1] == LENGTH
        mass = mass + torch.stack([one[0, :, EOI + 1 :, first : EOI + 1].mean(0).sum(0) for one in found]).double()
    return (mass / mass.sum(1, keepdim=True)).numpy()


@pytest.mark.parametrize(("option", "first"), [((), 2), (("--keep-boi",), 1)])
def test_the_size_and_the_end_of_the_frame_are_counted(store, capsys, option, first):
    asked = ("from rows where condition = 'none'", *option, "--names", "image-size,eol,eoi", "--threshold", 1)
    _, rows, _ = command(capsys, "attention", store, *asked)
    expected = shares(store, first)
    size, eol = [i - first for i in range(2, 6)], [i - first for i in (10, 15, 20, 25)]
    for layer, f in enumerate(expected):
        found = {row["name"]: row["share"] for row in rows if row["layer"] == layer}
        assert found["image-size"] == pytest.approx(f[size].sum(), rel=1e-4)
        assert found["eol"] == pytest.approx(f[eol].sum(), rel=1e-4)
        assert found["internal image"] == pytest.approx(1 - f[[*size, *eol, -1]].sum(), rel=1e-4)


def test_all_of_the_image_is_everything_between_its_ends(store):
    opened = actstore.open(store)
    found = {
        name: opened.residual(opened.sql(f"from rows where role = 'last' and condition = '{name}' order by row_id"), 4)
        for name in ("none", "image-knockout", "every-position")
    }
    np.testing.assert_array_equal(found["image-knockout"], found["every-position"])
    assert (found["image-knockout"] != found["none"]).any()
    tokens = opened.sql("select distinct position from rows where role = 'image-size' order by 1")["position"]
    assert tokens.to_list() == [2, 3, 4, 5]
