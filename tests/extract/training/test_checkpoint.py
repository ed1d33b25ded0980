"""A training that goes on as if it had never stopped, from nothing but its own checkpoint."""

import json
import random
import shutil

import pytest
from safetensors.torch import load_file

import trainings
from actstore.commands import main
from actstore.errors import ActstoreError
from actstore_extract.training import loop
from actstore_extract.training.checkpoint import FILE, read_checkpoint
from actstore_extract.training.loss import losses
from actstore_extract.training.program import train_adapter


@pytest.mark.parametrize("at", [1, 2, 5])
def test_stopped_and_gone_on_is_the_same_to_the_bit(folder, trained, tmp_path, monkeypatch, at):
    """Ctrl-C in the middle of a step: that step is made again."""
    whole, _ = trained
    out, made = tmp_path / "out", trainings.adapter_recipe(folder)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "losses", trainings.interrupted_at(at))
        done = train_adapter(made, out, device="cpu")
    assert (done.finished, done.step) == (False, at)
    assert not (out / "adapter.safetensors").exists()
    lines = []
    train_adapter(made, out, device="cpu", say=lines.append)
    assert lines[0] == f"{6 - at} of 6 steps left, of 4 examples"
    assert trainings.same(trainings.weights(out), trainings.weights(whole))
    assert trainings.log(out).equals(trainings.log(whole))


def test_killed_and_gone_on_is_the_same_to_the_bit(folder, trained, tmp_path, monkeypatch):
    """From the last checkpoint, of step 4; the log of the step behind it is dropped."""
    whole, _ = trained
    calls = 0

    def dying(*arguments):
        nonlocal calls
        calls += 1
        if calls == 11:
            raise RuntimeError("killed")
        return losses(*arguments)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "losses", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train_adapter(trainings.adapter_recipe(folder), out, device="cpu")
    lines = []
    train_adapter(trainings.adapter_recipe(folder, "training.checkpoint_every=5"), out, device="cpu", say=lines.append)
    assert lines[0] == "2 of 6 steps left, of 4 examples"
    assert trainings.same(trainings.weights(out), trainings.weights(whole))
    assert trainings.log(out).equals(trainings.log(whole))


def test_a_finished_training_has_nothing_left(folder, tmp_path):
    made, out, lines = trainings.adapter_recipe(folder), tmp_path / "out", []
    train_adapter(made, out, device="cpu")
    first = trainings.weights(out)
    (out / "adapter.safetensors").unlink()
    train_adapter(made, out, device="cpu", say=lines.append)
    assert lines[0] == "0 of 6 steps left, of 4 examples"
    assert trainings.same(trainings.weights(out), first)


def test_a_changed_recipe_is_refused_with_the_difference(made, trained):
    out, _ = trained
    with pytest.raises(ActstoreError, match=r"training.learning_rate: 0.01 in the checkpoint, 0.5 now") as caught:
        train_adapter(trainings.adapter_recipe(made, "training.learning_rate=0.5"), out, device="cpu")
    assert str(caught.value).count("\n") == 1
    with pytest.raises(ActstoreError, match=r"examples.llava: 12 in the checkpoint, 8 now"):
        train_adapter(trainings.adapter_recipe(made, "data.llava.limit=8"), out, device="cpu")


@pytest.mark.parametrize("change", ["text", "image", "order"])
def test_changed_conversations_are_refused(folder, tmp_path, change):
    """As many as before, but others."""
    out, made = tmp_path / "out", trainings.adapter_recipe(folder, "training.epochs=1")
    train_adapter(made, out, device="cpu")
    records = json.loads((folder / "said.json").read_text())
    if change == "text":
        records[5]["conversations"][1]["value"] += " ,"
    elif change == "image":
        records[5]["image"] = "6.png"
    else:
        records = records[::-1]
    (folder / "said.json").write_text(json.dumps(records))
    with pytest.raises(ActstoreError, match=r"examples_sha256.llava: '\w{64}' in the checkpoint, '\w{64}' now"):
        train_adapter(made, out, device="cpu")


def test_other_weights_are_refused(made, trained, folder):
    out, _ = trained
    vision = load_file(folder / "vision" / "model.safetensors")
    from safetensors.torch import save_file

    save_file({name: x + 1e-3 for name, x in vision.items()}, folder / "vision" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ActstoreError, match=r"made_from.vision_sha256: '\w{64}' in the checkpoint"):
        train_adapter(trainings.adapter_recipe(folder), out, device="cpu")


def test_other_folders_are_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(ActstoreError, match="holds other files and no checkpoint.state: choose an empty folder"):
        train_adapter(trainings.adapter_recipe(folder), tmp_path / "out")


def test_another_setup_of_a_frozen_model_is_refused(folder, trained):
    out, _ = trained
    config = json.loads((folder / "language" / "config.json").read_text())
    config |= {"rms_norm_eps": 0.5, "transformers_version": "4.1"}
    (folder / "language" / "config.json").write_text(json.dumps(config))
    said = r"settings.language/config.json: rms_norm_eps: 1e-06 in the checkpoint, 0.5 now$"
    with pytest.raises(ActstoreError, match=said) as caught:
        train_adapter(trainings.adapter_recipe(folder), out, device="cpu")
    assert "transformers_version" not in str(caught.value)


# Damage


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_no_flipped_bit_is_gone_on_from(made, trained, tmp_path, capfd):
    out = shutil.copytree(trained[0], tmp_path / "out")
    content = (out / FILE).read_bytes()
    wanted = made_by(trained[0])
    head = 8 * (8 + int.from_bytes(content[:8], "little"))  # of safetensors: its length, then JSON
    tensors = [one["data_offsets"] for name, one in json.loads(content[8 : head // 8]).items() if name[:2] != "__"]
    rng = random.Random(0)
    bits = [*rng.sample(range(head), 150), *(head + rng.randrange(8 * begin, 8 * end) for begin, end in tensors)]
    for bit in bits:
        (out / FILE).write_bytes(flipped(content, bit))
        with pytest.raises(ActstoreError, match="checkpoint.state"):
            read_checkpoint(out, wanted)
    trainings.adapter_recipe(made)
    assert main.run(["train", "adapter", str(made / "recipe.toml"), str(out), "--device", "cpu"]) == 1
    assert "is not what was written: its sha256 is another" in capfd.readouterr().err


def made_by(out):
    """What the checkpoint in a folder says it was made by."""
    from safetensors import safe_open

    with safe_open(out / FILE, framework="pt") as file:
        return json.loads(file.metadata()["made"])
