"""The mapping paper's figure of descriptions, through the command line: image tokens beside text alone, both judged
with the image that the sample was asked with."""

import base64
import json

import polars as pl
import pytest

import actstore
import tiny
from actstore.commands.main import run
from actstore_extract.shipped import MODELS
from speaking import speaking

NAMES = ["a", "b", "c", "d"]
LAYER = 4
RECIPE = """
check = false
[model]
path = "digits-mapped"
dtype = "float32"
[samples]
source = "table"
path = "digits.jsonl"
[prompt.text]
image-text = "<image> : this digit is a"
text = "{label} : this digit is a"
[capture]
roles = ["image", "text"]
layers = [4]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Samples asked with their image and without, and a description of every feature."""
    folder = tmp_path_factory.mktemp("baseline")
    for i, name in enumerate(NAMES):
        tiny.image(i, (8, 8)).save(folder / f"{name}.png")
        with (folder / f"{name}.png").open("ab") as file:
            file.write(name.encode())
    rows = [{"sample_id": name, "image": f"{name}.png", "label": "one"} for name in NAMES]
    (folder / "digits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text(RECIPE)
    n = json.loads((MODELS["digits-mapped"] / "saes" / f"layer-{LAYER}" / "cfg.json").read_text())["d_sae"]
    (folder / "texts").mkdir()
    described = [{"index": i, "explanations": [{"description": f"f{i}"}], "frac_nonzero": 0} for i in range(n)]
    (folder / "texts" / f"layer-{LAYER}.json").write_text(json.dumps(described))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["extract", "recipe.toml", "store", "--device", "cpu"]) == 0
    return folder


def describe(folder, capsys, *arguments):
    texts = folder / "texts" / "layer-{layer}.json"
    words = ["describe", folder / "store", "--saes", "digits-mapped", "--descriptions", texts, "--images", folder]
    status = run([*map(str, [*words, "--most-images", "1", *arguments])])
    out, err = capsys.readouterr()
    assert status == 0, err
    return pl.DataFrame([json.loads(line) for line in out.splitlines()], infer_schema_length=None)


def test_text_alone_is_judged_with_the_image_of_the_pair(folder, capsys):
    with speaking(lambda _: "Match found: YES") as server:
        table = describe(folder, capsys, "--judge", "tiny", "--base-url", server.url)
    assert table.select("role", "prompt_order", "control", "matched", "undescribed", "n").rows() == [
        ("image", "image-text", "none", 4, 0, 4),
        ("text", "text", "none", 4, 0, 4),
    ]
    shown = [body["messages"][0]["content"] for body in server.asked]
    images = [base64.b64decode(image["image_url"]["url"].partition(",")[2])[-1:].decode() for _, image in shown]
    assert sorted(images) == sorted(NAMES * 2)
    features = describe(folder, capsys).filter(control="none")
    asked = {(text["text"], image) for (text, _), image in zip(shown, images, strict=True)}
    for sample, descriptions in features.select("sample_id", "descriptions").iter_rows():
        listed = "\n".join(f"{i}. {text}" for i, text in enumerate(descriptions, 1))
        assert any(listed in text and image == sample[0] for text, image in asked), sample


def test_words_beside_an_image_are_counted_where_they_are_asked_for(folder, capsys):
    groups = describe(folder, capsys, "--text", "all").filter(control="none").select("role", "prompt_order").unique()
    assert sorted(groups.rows()) == [("image", "image-text"), ("text", "image-text"), ("text", "text")]
    with_image = "from rows where prompt_order = 'image-text'"
    assert describe(folder, capsys, with_image)["role"].unique().to_list() == ["image"]
    words = [folder / "store", with_image, "--roles", "text", "--saes", "digits-mapped"]
    texts = folder / "texts" / "layer-{layer}.json"
    assert run(["describe", *map(str, words), "--descriptions", str(texts)]) == 1
    assert "every row of role 'text' is of a prompt with an image: --text all takes" in capsys.readouterr().err
    assert actstore.open(folder / "store").layers == (LAYER,)
