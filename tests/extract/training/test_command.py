"""actstore train."""

import io
import sys

import polars as pl
import pytest

import trainings
from actstore.commands import main
from actstore.handing import pip_line
from actstore_extract.training import recipe


def test_commands(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    trainings.adapter_recipe(folder)
    out = str(tmp_path / "out")
    assert main.run(["train", "adapter", "recipe.toml", out, "--device", "cpu", "--set", "training.max_length=11"]) == 0
    said = capsys.readouterr().err
    assert f"{out}: 6 steps, loss" in said
    assert "24 of 24 examples were longer than max_length and cut at their end" in said
    assert main.run(["train", "lora", "recipe.toml", out]) == 1
    assert "recipe.toml is a recipe for: actstore train adapter" in capsys.readouterr().err
    assert main.run(["train", "adapter", "digits-adaptor", out]) == 1
    assert "did you mean 'digits-adapter'? See them all with: actstore train recipes" in capsys.readouterr().err
    assert main.run(["train", "recipes", "--format", "csv"]) == 0
    table = pl.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["name"].to_list() == list(recipe.shipped())
    first = table.row(by_predicate=pl.col("name") == "clip-gemma-2-2b-pretrain", named=True)
    assert first["weights"] == "openai/clip-vit-large-patch14, google/gemma-2-2b-it"
    assert first["data"] == "data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"
    assert table.filter(pl.col("gpu_gb").is_null())["name"].to_list() == [
        "digits-adapter", "digits-lora", "openmoji-adapter",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (
            "recipes digits-fusion",
            2,
            "no command 'digits-fusion'; a recipe is printed by: actstore recipes show digits-f",
        ),
        ("train recipes emu3-lora", 2, "a recipe is printed by: actstore train recipes show emu3-lora"),
        ("train recipes shwo emu3-lora", 2, "no command 'shwo'; did you mean 'show'?"),
        ("train adaptor", 2, "no command 'adaptor'; did you mean 'adapter'?"),
        ("train recipes show emu3-lroa", 1, "no training recipe 'emu3-lroa' ships; did you mean 'emu3-lora'?"),
        ("recipes show emu3-lora", 1, "ee actstore recipes; for trainings, actstore train recipes"),
    ],
)
def test_how_a_recipe_is_printed(capsys, words, status, reason):
    assert main.run(["train", "recipes", "show", "emu3-lora"]) == 0
    assert capsys.readouterr().out == recipe.shipped()["emu3-lora"].text
    assert main.run(words.split()) == status
    assert reason in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("lora", "emu3-lora", "[data.vqav2] folder data/vqav2 does not exist; set data.vqav2.path to the folder with"),
        (
            "adapter",
            "clip-gemma-2-2b-pretrain",
            "[data.llava] data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json does not",
        ),
    ],
)
def test_data_that_is_missing_is_named_by_its_key(tmp_path, capsys, monkeypatch, kind, name, reason):
    monkeypatch.chdir(tmp_path)
    assert main.run(["train", kind, name, "out", "--device", "cpu"]) == 1
    assert reason in capsys.readouterr().err


def test_a_null_is_no_word_to_be_learned(folder, tmp_path, capsys):
    null = {"id": "null", "image": "0.png", "conversations": trainings.said("<image> this", "one", "and", None)}
    trainings.conversations(folder, 12, null)
    trainings.adapter_recipe(folder)
    assert main.run(["train", "adapter", str(folder / "recipe.toml"), str(tmp_path / "out"), "--device", "cpu"]) == 1
    assert "1 of 13 examples cannot be used:\n  llava: 000012/null: no answer" in capsys.readouterr().err


def test_nothing_to_learn_is_no_success(folder, tmp_path, capsys):
    """Not even the first stage of an adapter is written."""
    trainings.adapter_recipe(folder)
    call = ["train", "adapter", str(folder / "recipe.toml"), str(tmp_path / "out"), "--device", "cpu"]
    assert main.run([*call, "--set", "training.max_length=5"]) == 1
    assert (
        "there is nothing to learn in an epoch of 12 examples: 12 have no answer left, 12 were cut at max_length 5, "
        "0 cannot be used"
    ) in capsys.readouterr().err
    assert not (tmp_path / "out" / "adapter.safetensors").exists()


def test_out_below_a_file(folder, capsys):
    trainings.adapter_recipe(folder)
    out = folder / "recipe.toml" / "out"
    assert main.run(["train", "adapter", str(folder / "recipe.toml"), str(out), "--device", "cpu"]) == 1
    assert f"{out} cannot be a folder: Not a directory; choose another" in capsys.readouterr().err


def test_what_the_extra_brings(monkeypatch, capsys, tmp_path):
    for module, extra in (("peft", "train"), ("accelerate", "extract")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            for name in [name for name in sys.modules if name.startswith("actstore_extract.training")]:
                patch.delitem(sys.modules, name)
            made = ["train", "lora", "emu3-lora", str(tmp_path / "out"), "--set", "data.llava.limit=1"]
            assert main.run(made) == 1
        said = capsys.readouterr().err
        assert f"this command needs {module}; install it with: {pip_line(extra)}" in said
        assert f"'{module}>=" in said


def test_a_recipe_without_a_number_type_says_which(folder, tmp_path, capfd):
    trainings.adapter_recipe(folder)
    text = (folder / "recipe.toml").read_text()
    said = "the frozen weights run in bfloat16, since the recipe has no dtype in [model]"
    for number, (written, told) in enumerate([(text, False), (text.replace('dtype = "float32"\n', ""), True)]):
        (folder / "recipe.toml").write_text(written)
        words = ["train", "adapter", str(folder / "recipe.toml"), str(tmp_path / f"out{number}"), "--device", "cpu"]
        assert main.run([*words, "--set", "training.epochs=1"]) == 0
        assert (said in capfd.readouterr().err) == told
