"""Examples share a forward only as is right for the model, which is looked at before anything is learned."""

from pathlib import Path

import pytest

import kinds
import tiny
import trainings
from actstore_extract.check.found import Found
from actstore_extract.training import loop, recipe
from actstore_extract.training.data import gather
from actstore_extract.training.examples import Encoder
from actstore_extract.training.program import train_lora
from actstore_extract.training.recipe import LoraRecipe
from actstore_extract.training.sharing import sharing

TEXTS = [kinds.LONG, f"{kinds.LONG} one two", kinds.LONG.replace("one", "two"), "two one"]


def asked(folder: Path, micro_batch: int) -> LoraRecipe:
    (folder / "said.csv").write_text("\n".join(["text", *(f'"{text}"' for text in TEXTS)]) + "\n")
    text = f"""
kind = "lora"
[model]
path = "{folder}/sparse"
dtype = "float32"
chat_template = "{{{{ bos_token }}}} {trainings.PLAIN}"
[lora]
targets = ["o_proj"]
dropout = 0.5
[data.texts]
source = "table"
path = "{folder}/said.csv"
prompt = "{{text}}"
answer = " two"
[training]
batch_size = 4
micro_batch = {micro_batch}
epochs = 1
learning_rate = 1e-2
max_length = 64
"""
    (folder / "recipe.toml").write_text(text)
    return recipe.load(str(folder / "recipe.toml"), LoraRecipe)


def test_examples_learn_in_a_batch_what_they_learn_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save(kinds.text("deepseek_v32"), tmp_path / "sparse")  # which keys it chooses depends on padding
    said: list[str] = []
    train_lora(asked(tmp_path, 1), tmp_path / "alone", device="cpu")
    train_lora(asked(tmp_path, 4), tmp_path / "together", device="cpu", say=said.append)
    (line,) = [line for line in said if "self-check" in line]
    assert line.endswith("going on with batches of samples of one length")
    monkeypatch.setattr(loop, "sharing", lambda *_: Found())
    train_lora(asked(tmp_path, 4), tmp_path / "padded", device="cpu")
    first = {name: trainings.log(tmp_path / name)["loss"][0] for name in ("alone", "together", "padded")}
    assert first["together"] == pytest.approx(first["alone"], rel=1e-6)
    assert first["padded"] != pytest.approx(first["alone"], rel=1e-4)


def test_what_cannot_be_seen_runs_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = gather(trainings.adapter_recipe(folder).data, images_only=True, skip_bad=False)
    words = tiny.model("llava_gemma")
    words.tokenizer.chat_template = trainings.GEMMA
    encode = Encoder(words, 64, image_first=True)
    assert sharing(data, encode, 4) == Found()
    monkeypatch.setattr(type(words), "encode", lambda *_: 1 / 0)
    assert sharing(data, encode, 4).batches == "of one"
    assert sharing(data, encode, 1) == Found()
