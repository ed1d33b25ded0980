"""Adapter training: what is learned, token by token, and a training that goes on as if it had never stopped."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

import tiny
import training
from actstore.commands import main
from actstore.errors import ActstoreError
from actstore_extract.families import LoadError, Prompt, load
from actstore_extract.families.adapter import read_adapter
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.recipe.sections import RecipeError
from actstore_extract.samples.digits import scans
from actstore_extract.training import loop, needs, recipe, stopping
from actstore_extract.training import place as places
from actstore_extract.training.adapter import learner
from actstore_extract.training.chat import render
from actstore_extract.training.conversations import Conversation, Turn
from actstore_extract.training.data import BadExamplesError, gather
from actstore_extract.training.examples import Encoder
from actstore_extract.training.log import draw, read_log, write_log
from actstore_extract.training.loop import TrainingError
from actstore_extract.training.loss import losses
from actstore_extract.training.program import train_adapter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Parts of a tiny model, and twelve conversations."""
    folder = training.parts(tmp_path_factory.mktemp("parts"))
    training.conversations(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "made"))


@pytest.fixture(scope="module")
def tuned(made):
    return learner(training.adapter_recipe(made), CPU)


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """A training from beginning to end, and what it said."""
    out, lines = tmp_path_factory.mktemp("trained") / "out", []
    train_adapter(training.adapter_recipe(made), out, device="cpu", say=lines.append)
    return out, lines


def turns(*texts):
    return tuple(Turn(("human", "gpt")[i % 2], text) for i, text in enumerate(texts))


def tokens(model, example):
    return model.tokenizer.convert_ids_to_tokens(example.encoded.layout.token_ids.tolist())


def weights(out):
    return load_file(out / "adapter.safetensors")


def log(out):
    return pl.read_parquet(out / "log.parquet").drop("seconds")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What is learned


def test_answers_token_by_token(tuned):
    said = Conversation("1", turns("<image>\nthis is a", "seven .", "and this", "one"), "x")
    example = tuned.encode(said, tiny.image())
    found = tokens(tuned.model, example)
    user, model = ["<start_of_turn>", "user"], ["<start_of_turn>", "model"]
    assert found == [
        "<s>", *["<unused0>"] * 16,
        *user, "this", "is", "a", "<end_of_turn>", *model, "seven", ".", "<end_of_turn>",
        *user, "and", "this", "<end_of_turn>", *model, "one", "<end_of_turn>",
    ]  # fmt: skip
    assert [found[start:stop] for start, stop in example.spans] == [
        ["seven", ".", "<end_of_turn>"],
        ["one", "<end_of_turn>"],
    ]
    assert not example.cut


def test_the_prompt_is_that_of_extraction(tuned):
    """What is learned is what a recipe of extraction asks, with the answer behind it."""
    said = Conversation("1", turns("<image>\nthis is a", "seven"), "x")
    ids = tuned.encode(said, tiny.image()).encoded.layout.token_ids
    prompt = "<image><start_of_turn>user\nthis is a<end_of_turn>\n<start_of_turn>model\n"
    asked = tuned.model.encode(Prompt("1", prompt, tiny.image())).layout.token_ids
    assert ids[: len(asked)].tolist() == asked.tolist()
    assert len(ids) == len(asked) + 2


def test_an_answer_in_the_prompts_own_words(tuned):
    """Found by where it is, not by what it says."""
    said = Conversation("1", turns("<image> this is a", "this is a", "this is a", "this"), "x")
    example = tuned.encode(said, tiny.image())
    found = tokens(tuned.model, example)
    assert [found[start:stop] for start, stop in example.spans] == [
        ["this", "is", "a", "<end_of_turn>"],
        ["this", "<end_of_turn>"],
    ]
    assert example.spans[0][0] > 22


def test_the_image_is_never_cut(made):
    tuned = learner(training.adapter_recipe(made, "training.max_length=14"), CPU)
    said = Conversation("1", turns("<image> this is a", "seven seven seven seven", "and", "one"), "x")
    example = tuned.encode(said, tiny.image())
    found = tokens(tuned.model, example)
    assert example.cut
    assert len(found) == 14 + 16  # tokens of text, and all of the image
    assert found[1:17] == ["<unused0>"] * 16
    assert [found[start:stop] for start, stop in example.spans] == [["seven"] * 4 + ["<end_of_turn>"]]
    assert example.encoded.inputs["input_ids"].shape == example.encoded.inputs["attention_mask"].shape == (1, 30)
    assert not Encoder(tuned.model, 5, image_first=True)(said, tiny.image()).spans


def test_templates_that_cannot_say_where_answers_are():
    words = training.words()
    with pytest.raises(RecipeError, match="writes a turn otherwise when others follow"):
        render(
            turns("a", "b", "c", "d"),
            words,
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
        )
    with pytest.raises(RecipeError, match="cannot write this conversation: Conversation roles must alternate"):
        render((Turn("gpt", "a"), Turn("gpt", "b")), words, None)
    words.chat_template = None
    with pytest.raises(RecipeError, match="no chat template: give one as chat_template"):
        render(turns("a", "b"), words, None)


def test_loss_by_hand(tuned):
    """Mean over the tokens of a span, then over the spans of an example."""
    said = [
        Conversation("1", turns("<image> this is a", "seven .", "and this", "one"), "x"),
        Conversation("2", turns("<image> is a", "three"), "y"),
    ]
    examples = [tuned.encode(one, tiny.image(i)) for i, one in enumerate(said)]
    expected = []
    for example in examples:
        batch = tuned.model.collate([example.encoded])
        with torch.no_grad():
            chances = tuned.model.module(**batch.inputs).logits[0].double().log_softmax(-1)
        ids = example.encoded.layout.token_ids
        spans = [np.mean([-chances[i - 1, ids[i]].item() for i in range(start, stop)]) for start, stop in example.spans]
        expected.append(np.mean(spans))
    assert losses(tuned.model, examples).tolist() == pytest.approx(expected, abs=1e-5)
    assert losses(tuned.model, examples[::-1]).tolist() == pytest.approx(expected[::-1], abs=1e-5)


def test_gradients_are_gathered_over_the_whole_batch(folder, tmp_path):
    """Pieces of three and one, or all four at once: the same steps, though examples have one or two answers."""
    for size in "34":
        made = training.adapter_recipe(folder, f"training.micro_batch={size}")
        train_adapter(made, tmp_path / size, device="cpu")
    first, second = (weights(tmp_path / size) for size in "34")
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-5, rtol=0)
    logs = [log(tmp_path / size) for size in "34"]
    for column in ("loss", "gradient_norm"):
        assert logs[0][column].to_list() == pytest.approx(logs[1][column].to_list(), rel=1e-4)


# What comes out


def test_out_is_a_model_of_the_family(made, trained):
    out, lines = trained
    assert lines[0] == "6 of 6 steps left, of 4 examples"
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter.safetensors", "checkpoint.state", "log.parquet", "log.png", "parts.toml",
    ]  # fmt: skip
    model = load(str(out), dtype="float32")
    encoded = model.encode(tiny.prompts(["<image> this digit is a"])[0])
    x = capture(model, model.collate([encoded]), [Selection(np.arange(encoded.length))], layers=[0]).residual[0]
    linear = read_adapter(out / "adapter.safetensors").linear
    with torch.no_grad():
        features = model.module.model.vision_tower(encoded.inputs["pixel_values"]).last_hidden_state[0, 1:]
        torch.testing.assert_close(x[1:17], linear(features))
    learned = learner(training.adapter_recipe(made), CPU)  # what was extracted is what was learned
    learned.model.module.model.multi_modal_projector.adapter.linear.load_state_dict(linear.state_dict())
    same_again = learned.model(learned.model.collate([encoded])).logits
    torch.testing.assert_close(model(model.collate([encoded])).logits, same_again, atol=1e-5, rtol=0)
    facts = model.facts()["adapter"]
    assert facts["scale"] == "1"
    assert facts["vision"] == f"{made}/vision"
    assert facts["steps"] == "6"
    assert json.loads(facts["recipe"])["training"]["learning_rate"] == 1e-2
    assert len(facts["language_sha256"]) == len(facts["vision_digest"]) == 64


def test_the_same_training_writes_the_same_bytes_and_once(folder, tmp_path):
    """Stores name the weights that made them by the hash of the file."""
    made, out = training.adapter_recipe(folder, "training.epochs=1"), tmp_path / "out"
    for path in (out, tmp_path / "again"):
        train_adapter(made, path, device="cpu")
    assert (out / "adapter.safetensors").read_bytes() == (tmp_path / "again" / "adapter.safetensors").read_bytes()
    with safe_open(out / "adapter.safetensors", "pt") as file:
        assert len(file.metadata()) == 1  # several would be written in any order
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert train_adapter(made, out, device="cpu").finished
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before
    (out / "adapter.safetensors").unlink()  # as if it had died between the last step and this
    assert train_adapter(made, out, device="cpu").finished
    assert (out / "adapter.safetensors").read_bytes() == before["adapter.safetensors"][0]


def test_only_the_adapter_learns_in_float32_between_models_of_16_bits(folder):
    tuned = learner(training.adapter_recipe(folder, "model.dtype=bfloat16"), CPU)
    module = tuned.model.module
    assert {name for name, weight in module.named_parameters() if weight.requires_grad} == {
        "model.multi_modal_projector.adapter.linear.weight",
        "model.multi_modal_projector.adapter.linear.bias",
    }
    assert {weight.dtype for weight in tuned.weights.values()} == {torch.float32}
    assert {weight.dtype for weight in module.parameters() if not weight.requires_grad} == {torch.bfloat16}
    example = tuned.encode(Conversation("1", turns("<image> this", "seven"), "x"), tiny.image())
    losses(tuned.model, [example]).sum().backward()
    assert {weight.grad.dtype for weight in tuned.weights.values()} == {torch.float32}


def test_the_log(trained):
    out, _ = trained
    table = pl.read_parquet(out / "log.parquet")
    assert table["step"].to_list() == list(range(6))
    assert table["epoch"].to_list() == [0, 0, 0, 1, 1, 1]
    assert table["examples"].to_list() == [4] * 6
    assert table["learning_rate"][0] == 1e-2
    assert table["learning_rate"].is_sorted(descending=True)
    assert table["loss"][-1] < table["loss"][0]


def test_other_models_are_refused(folder, tmp_path):
    train_adapter(training.adapter_recipe(folder, "training.epochs=1"), tmp_path / "out", device="cpu")
    language = LlamaForCausalLM(LlamaConfig(**tiny.text_config(training.words())))
    language.save_pretrained(folder / "language")
    with pytest.raises(LoadError, match="the adapter was trained with another language model"):
        load(str(tmp_path / "out"))


def test_any_tower_and_any_language_model(folder, tmp_path):
    """SigLIP, which has no class token, and Llama."""
    shutil.rmtree(folder / "vision")
    torch.manual_seed(1)
    config = SiglipVisionConfig(image_size=8, patch_size=4, vision_use_head=False, **tiny.SMALL_VISION)
    SiglipVisionModel(config).save_pretrained(folder / "vision")
    SiglipImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder / "vision")
    words = training.words()
    tiny.spread(LlamaForCausalLM(LlamaConfig(**tiny.text_config(words)))).save_pretrained(folder / "language")
    train_adapter(training.adapter_recipe(folder, "training.epochs=1"), tmp_path / "out", device="cpu")
    model = load(str(tmp_path / "out"), dtype="float32")
    encoded = model.encode(tiny.prompts(["<image> this digit is a"])[0])
    assert encoded.layout.image.tolist() == [1, 2, 3, 4]
    vision = model.module.model.vision_tower
    with torch.no_grad():
        found = model.module.model.get_image_features(encoded.inputs["pixel_values"]).pooler_output[0]
        states = vision(encoded.inputs["pixel_values"], output_hidden_states=True).hidden_states[-1][0]
        expected = read_adapter(tmp_path / "out" / "adapter.safetensors").linear(states)
    torch.testing.assert_close(found, expected)


def test_the_second_stage_starts_from_the_first(folder, trained, tmp_path):
    out, _ = trained
    second = training.adapter_recipe(folder, f"model.adapter={out}", "training.learning_rate=1e-12")
    train_adapter(second, tmp_path / "second", device="cpu")
    torch.testing.assert_close(weights(tmp_path / "second")["weight"], weights(out)["weight"], atol=1e-7, rtol=0)
    with pytest.raises(LoadError, match=r"reads layer -1 of the tower; set model.feature_layer to it"):
        learner(training.adapter_recipe(folder, f"model.adapter={out}", "model.feature_layer=-2"), CPU)
    LlamaForCausalLM(LlamaConfig(**tiny.text_config(training.words()))).save_pretrained(folder / "language")
    with pytest.raises(LoadError, match="the adapter was trained with another language model"):
        learner(training.adapter_recipe(folder, f"model.adapter={out}"), CPU)


# Going on


def interrupted_at(step):
    """The loss, with Ctrl-C in the middle of a step of two pieces."""
    seen = 0

    def interrupted(model, examples):
        nonlocal seen
        seen += 1
        if seen == 2 * step + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(model, examples)

    return interrupted


@pytest.mark.parametrize("at", [1, 2, 5])
def test_stopped_and_gone_on_is_the_same_to_the_bit(folder, trained, tmp_path, monkeypatch, at):
    """Ctrl-C in the middle of a step: that step is made again."""
    whole, _ = trained
    out, made = tmp_path / "out", training.adapter_recipe(folder)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "losses", interrupted_at(at))
        done = train_adapter(made, out, device="cpu")
    assert (done.finished, done.step) == (False, at)
    assert not (out / "adapter.safetensors").exists()
    lines = []
    train_adapter(made, out, device="cpu", say=lines.append)
    assert lines[0] == f"{6 - at} of 6 steps left, of 4 examples"
    assert same(weights(out), weights(whole))
    assert log(out).equals(log(whole))


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
            train_adapter(training.adapter_recipe(folder), out, device="cpu")
    lines = []
    train_adapter(training.adapter_recipe(folder, "training.checkpoint_every=5"), out, device="cpu", say=lines.append)
    assert lines[0] == "2 of 6 steps left, of 4 examples"
    assert same(weights(out), weights(whole))
    assert log(out).equals(log(whole))


def test_a_finished_training_has_nothing_left(folder, tmp_path):
    made, out, lines = training.adapter_recipe(folder), tmp_path / "out", []
    train_adapter(made, out, device="cpu")
    first = weights(out)
    (out / "adapter.safetensors").unlink()
    train_adapter(made, out, device="cpu", say=lines.append)
    assert lines[0] == "0 of 6 steps left, of 4 examples"
    assert same(weights(out), first)


def test_a_changed_recipe_is_refused_with_the_difference(made, trained):
    out, _ = trained
    with pytest.raises(ActstoreError, match=r"training.learning_rate: 0.01 in the checkpoint, 0.5 now") as caught:
        train_adapter(training.adapter_recipe(made, "training.learning_rate=0.5"), out, device="cpu")
    assert str(caught.value).count("\n") == 1
    with pytest.raises(ActstoreError, match=r"examples.llava: 12 in the checkpoint, 8 now"):
        train_adapter(training.adapter_recipe(made, "data.llava.limit=8"), out, device="cpu")


@pytest.mark.parametrize("change", ["text", "image", "order"])
def test_changed_conversations_are_refused(folder, tmp_path, change):
    """As many as before, but others."""
    out, made = tmp_path / "out", training.adapter_recipe(folder, "training.epochs=1")
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


@pytest.mark.parametrize("harm", ["lost", "damaged", "behind"])
@pytest.mark.parametrize("at", [3, 6])
def test_a_log_that_is_gone_is_written_again(folder, trained, tmp_path, monkeypatch, harm, at):
    """The checkpoint has all of it, of finished trainings too."""
    out, made = tmp_path / "out", training.adapter_recipe(folder)
    whole, _ = trained
    with monkeypatch.context() as patch:
        patch.setattr(loop, "losses", interrupted_at(at))
        assert train_adapter(made, out, device="cpu").step == at
    if harm == "lost":
        (out / "log.parquet").unlink()
    elif harm == "damaged":
        (out / "log.parquet").write_bytes((out / "log.parquet").read_bytes()[:100])
    else:
        write_log(out, read_log(out)[:1])
    assert train_adapter(made, out, device="cpu").finished
    assert log(out).equals(log(whole))


def test_other_weights_are_refused(made, trained, folder):
    out, _ = trained
    vision = load_file(folder / "vision" / "model.safetensors")
    from safetensors.torch import save_file

    save_file({name: x + 1e-3 for name, x in vision.items()}, folder / "vision" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ActstoreError, match=r"made_from.vision_sha256: '\w{64}' in the checkpoint"):
        train_adapter(training.adapter_recipe(folder), out, device="cpu")


def test_other_folders_are_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(ActstoreError, match="holds other files and no checkpoint.state: choose an empty folder"):
        train_adapter(training.adapter_recipe(folder), tmp_path / "out")


@pytest.fixture
def fresh():
    """accelerate as a new process finds it: it remembers what the first Accelerator was told."""

    def forget():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    yield
    forget()


def test_the_environment_changes_nothing_that_is_learned(folder, trained, tmp_path, monkeypatch, fresh):
    """As `accelerate launch` sets it, or a shell that was used for something else."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    train_adapter(training.adapter_recipe(folder), tmp_path / "out", device="cpu")
    whole, _ = trained
    assert same(weights(tmp_path / "out"), weights(whole))
    assert log(tmp_path / "out").equals(log(whole))
    assert AcceleratorState().mixed_precision == "no"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_a_device_that_is_not_there_is_refused(folder, tmp_path, capsys, fresh, device):
    training.adapter_recipe(folder)
    call = ["train", "adapter", str(folder / "recipe.toml"), str(tmp_path / "out"), "--device", device]
    assert main.run(call) == 1
    assert f"no device '{device}' here: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("named", "chosen", "reason"),
    [
        ("cpu:0", "cpu", "cpu:0 is one device for 2 processes: use cpu"),
        ("meta", "cpu", "accelerate chose cpu, not meta: unset ACCELERATE_TORCH_DEVICE"),
    ],
)
def test_processes_have_a_device_each(monkeypatch, named, chosen, reason):
    several = SimpleNamespace(num_processes=2, device=torch.device(chosen))
    monkeypatch.setattr(places, "Accelerator", lambda **_: several)
    with pytest.raises(LoadError, match=reason):
        places.place(named)
    assert places.place("cpu") == (several, CPU)


def test_out_below_a_file(folder, capsys):
    training.adapter_recipe(folder)
    out = folder / "recipe.toml" / "out"
    assert main.run(["train", "adapter", str(folder / "recipe.toml"), str(out), "--device", "cpu"]) == 1
    assert f"{out} cannot be a folder: Not a directory; choose another" in capsys.readouterr().err


def test_files_are_for_those_whom_the_umask_lets_read(folder, tmp_path):
    before = os.umask(0o027)
    try:
        train_adapter(training.adapter_recipe(folder, "training.epochs=1"), tmp_path / "out", device="cpu")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == dict.fromkeys(
        ["adapter.safetensors", "checkpoint.state", "log.parquet", "log.png", "parts.toml"], 0o640
    )


def test_a_loss_that_is_no_number_stops(folder, tmp_path, monkeypatch):
    """The last good checkpoint is kept, and the batch is said."""
    seen = 0

    def exploding(model, examples):
        nonlocal seen
        seen += 1
        return losses(model, examples) * (float("nan") if seen == 8 else 1)

    out, made = tmp_path / "out", training.adapter_recipe(folder)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "losses", exploding)
        with pytest.raises(TrainingError, match="step 3: the loss is nan") as caught:
            train_adapter(made, out, device="cpu")
    assert f"the checkpoint of step 2 is kept in {out}" in str(caught.value)
    data, _ = gather(made.data, images_only=True, skip_bad=False)
    order = loop.Order(len(data), 4, 2, 475)
    names = [data.conversation(number)[0].sample_id for number in order.batch(3)]
    assert f"its batch: {', '.join(names)}" in str(caught.value)
    with safe_open(out / "checkpoint.state", "pt") as file:
        assert file.metadata()["step"] == "2"
        assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118
    assert train_adapter(made, out, device="cpu").finished


# What cannot be learned from


BAD = [
    ({"conversations": training.said("<image> this")}, "no answer"),
    ({"conversations": training.said("<image> this", " ")}, "no answer"),
    ({"conversations": training.said("this", "one")}, "0 <image> in the text for one image"),
    ({"conversations": training.said("<image> this <image>", "one")}, "2 <image> in the text for one image"),
    ({"conversations": training.said("<image> this", "one"), "image": None}, "<image> in the text but no image"),
    ({"conversations": training.said("<image> this", "one"), "image": "gone.png"}, "no image .*gone.png"),
    ({"conversations": training.said("<image> this", "one"), "image": ["0.png"]}, r"no image .*/\['0.png'\]"),
    ({"conversations": training.said("<image> this", "one", "and")}, "turns do not alternate: human, gpt, human"),
    ({"conversations": [{"from": "system", "value": ""}]}, "a turn is from 'system', not human or gpt"),
    ({"conversations": [{"from": "human"}]}, "not of the form of LLaVA's releases"),
]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_bad_conversations_are_named(folder, record, reason):
    training.conversations(folder, 2, {"id": "odd", "image": "0.png", **record})
    made = training.adapter_recipe(folder)
    with pytest.raises(BadExamplesError, match=rf"^1 of 3 examples cannot be used:\n  llava: 000002/odd: {reason}"):
        gather(made.data, images_only=True, skip_bad=False)
    data, said = gather(made.data, images_only=True, skip_bad=True)
    assert len(data) == 2
    assert said[0].startswith("1 of 3 examples cannot be used and are left out:")


def test_bad_conversations_are_counted(folder):
    training.conversations(folder, 2, *({"id": str(i), "conversations": []} for i in range(5)))
    with pytest.raises(
        BadExamplesError, match=r"^5 of 7 examples cannot be used:(\n  llava: .*){3}\n  and 2 more\nmend"
    ):
        gather(training.adapter_recipe(folder).data, images_only=True, skip_bad=False)


def test_conversations_about_nothing_to_be_seen(folder):
    text = {"id": "text", "conversations": training.said("and", "one")}
    training.conversations(folder, 2, text)
    made = training.adapter_recipe(folder)
    data, said = gather(made.data, images_only=True, skip_bad=False)
    assert (len(data), said) == (2, ["llava: 1 of 3 conversations have no image and are left out"])
    assert len(gather(made.data, images_only=False, skip_bad=False)[0]) == 3
    training.conversations(folder, 2, {"id": "gpt", "conversations": training.said("and", "one")[::-1]})
    assert len(gather(made.data, images_only=True, skip_bad=False)[0]) == 2
    with pytest.raises(BadExamplesError, match="turns do not alternate: gpt, human"):
        gather(made.data, images_only=False, skip_bad=False)


def test_a_tokenizer_that_cannot_say_where_its_tokens_are(tuned, monkeypatch):
    monkeypatch.setattr(type(tuned.model.tokenizer), "is_fast", False)
    with pytest.raises(LoadError, match="cannot say where in a text its tokens are"):
        Encoder(tuned.model, 64, image_first=True)


def test_nothing_to_learn_is_no_success(folder, tmp_path, capsys):
    """Not even the first stage of an adapter is written."""
    training.adapter_recipe(folder)
    call = ["train", "adapter", str(folder / "recipe.toml"), str(tmp_path / "out"), "--device", "cpu"]
    assert main.run([*call, "--set", "training.max_length=5"]) == 1
    assert (
        "there is nothing to learn in an epoch of 12 examples: 12 have no answer left, 12 were cut at max_length 5, "
        "0 cannot be used"
    ) in capsys.readouterr().err
    assert not (tmp_path / "out" / "adapter.safetensors").exists()


@pytest.mark.parametrize(("layer", "known"), [(-9, False), (-4, False), (-3, True), (2, True), (3, False)])
def test_layers_that_the_tower_does_not_have(folder, layer, known):
    made = training.adapter_recipe(folder, f"model.feature_layer={layer}")
    if known:
        learner(made, CPU)
        return
    with pytest.raises(LoadError, match=f"model.feature_layer {layer}: the hidden states of .*vision are -3 to 2"):
        learner(made, CPU)


def test_an_image_that_turns_out_unreadable(folder, tmp_path):
    (folder / "images" / "3.png").write_bytes(b"<html>")
    out, made = tmp_path / "out", training.adapter_recipe(folder)
    with pytest.raises(TrainingError, match=r"000003/3: its image 3.png cannot be read: cannot identify") as caught:
        train_adapter(made, out, device="cpu")
    step = int(str(caught.value).partition(":")[0].removeprefix("step "))
    assert f"{step} steps are kept" in str(caught.value)
    shutil.copytree(out, tmp_path / "again")
    done = train_adapter(training.adapter_recipe(folder, "training.skip_bad=true"), tmp_path / "again", device="cpu")
    assert done.finished
    shutil.copy(folder / "images" / "2.png", folder / "images" / "3.png")
    assert train_adapter(made, out, device="cpu").finished
    (folder / "images" / "3.png").write_bytes(b"<html>")
    done = train_adapter(training.adapter_recipe(folder, "training.skip_bad=true"), tmp_path / "skipped", device="cpu")
    assert sum(row.bad for row in done.log) == 2  # once in each epoch
    assert sum(row.examples for row in done.log) == 22


# Commands and recipes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("training.batchsize=3", r"\[training\]: unknown key 'batchsize'; did you mean 'batch_size'"),
        ("training.batch_size=0", r"\[training\] batch_size: Input should be greater than or equal to 1"),
        ("data.llava.source=lava", r"\[data.llava\] source 'lava' is not one of .*; did you mean 'llava'"),
        ("data.llava.prompt=x", r"\[data.llava\] prompt: conversations have their own"),
        ("data.more.source=digits", r"\[data.more\]: no prompt; set prompt"),
        ("model.visoin=x", r"\[model\]: unknown key 'visoin'; did you mean 'vision'"),
        ("kind=lorra", "kind 'lorra' is not one of adapter, lora; did you mean 'lora'"),
        ("data=3", r"data is a section: write \[data\]"),
    ],
)
def test_recipes_with_mistakes(folder, change, reason):
    with pytest.raises(RecipeError, match=reason):
        training.adapter_recipe(folder, change)


def test_the_papers_numbers():
    first, second = (
        recipe.load(f"clip-gemma-2-2b-{stage}", recipe.AdapterRecipe) for stage in ("pretrain", "finetune")
    )
    assert (first.model.vision, first.model.language) == ("openai/clip-vit-large-patch14", "google/gemma-2-2b-it")
    assert (first.seed, second.seed) == (475, 475)
    found = [
        (one.batch_size, one.learning_rate, one.epochs, one.warm_up, one.final_learning_rate, one.max_length)
        for one in (first.training, second.training)
    ]
    assert found == [(128, 1e-3, 1, 0.03, 1e-8, 512), (64, 2e-5, 3, 0.0, 1e-8, 1024)]
    assert second.model.adapter is not None
    tuned = recipe.load("emu3-lora", recipe.LoraRecipe)
    assert {name: one.samples.limit for name, one in tuned.data.items()} == {
        "vqav2": 37500,
        "coco": 37500,
        "llava": None,
    }
    how = tuned.training
    assert (how.batch_size, how.learning_rate, how.epochs, how.weight_decay, how.warm_up) == (64, 5e-5, 1, 0.0, 0.0)


def test_commands(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    training.adapter_recipe(folder)
    out = str(tmp_path / "out")
    assert main.run(["train", "adapter", "recipe.toml", out, "--device", "cpu", "--set", "training.max_length=11"]) == 0
    said = capsys.readouterr().err
    assert f"{out}: 6 steps, loss" in said
    assert "24 of 24 examples were longer than max_length and cut at their end" in said
    assert main.run(["train", "lora", "recipe.toml", out]) == 1
    assert "recipe.toml is a recipe for: actstore train adapter" in capsys.readouterr().err
    assert main.run(["train", "adapter", "digits-adaptor", out]) == 1
    assert "did you mean 'digits-adapter'?; see them all with: actstore train recipes" in capsys.readouterr().err
    assert main.run(["train", "recipes", "--format", "csv"]) == 0
    table = pl.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["name"].to_list() == list(recipe.shipped())
    first = table.row(by_predicate=pl.col("name") == "clip-gemma-2-2b-pretrain", named=True)
    assert first["weights"] == "openai/clip-vit-large-patch14, google/gemma-2-2b-it"
    assert first["data"] == "data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"
    assert table.filter(pl.col("gpu_gb").is_null())["name"].to_list() == ["digits-adapter"]
    assert main.run(["train", "recipes", "emu3-lora"]) == 0
    assert capsys.readouterr().out == recipe.shipped()["emu3-lora"].text


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


def test_what_a_training_needs():
    """By hand: 2 bytes of 8.5e9 weights, 16 of those learned, of 4 x (1024 + 1024) tokens 34 in each of 32 layers of
    4096, of 4 x 1024 words 10 for each logit."""
    gb = needs.gpu_gb(recipe.load("emu3-lora", recipe.LoraRecipe))
    expected = 2 * 8.5 + 16 * 0.17 + (8192 * 34 * 32 * 4096 + 4096 * 10 * 184_622) / 1e9
    assert gb == pytest.approx(expected)
    rank, width, keys, inner = 64, 4096, 1024, 14_336
    learned = 32 * rank * (2 * 2 * width + 2 * (width + keys) + 3 * (width + inner))
    assert recipe.load("emu3-lora", recipe.LoraRecipe).facts.learned == pytest.approx(learned, rel=0.02)


def test_ctrl_c_says_what_is_kept(folder, tmp_path, capsys, monkeypatch):
    def interrupted(model, examples):
        os.kill(os.getpid(), signal.SIGINT)
        return losses(model, examples)

    training.adapter_recipe(folder)
    monkeypatch.setattr(loop, "losses", interrupted)
    status = main.run(["train", "adapter", str(folder / "recipe.toml"), str(tmp_path / "out"), "--device", "cpu"])
    assert status not in (0, 1)
    assert "stopped; 0 of 6 steps are kept; the same command goes on" in capsys.readouterr().err


def test_what_the_extra_brings(monkeypatch, capsys, tmp_path):
    for module, extra in (("peft", "train"), ("accelerate", "extract")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            for name in [name for name in sys.modules if name.startswith("actstore_extract.training")]:
                patch.delitem(sys.modules, name)
            made = ["train", "lora", "emu3-lora", str(tmp_path / "out"), "--set", "data.llava.limit=1"]
            assert main.run(made) == 1
        assert (
            f"this command needs {module}; install it with: pip install 'actstore[{extra}]'" in capsys.readouterr().err
        )


def test_no_figure_without_altair(trained, tmp_path, monkeypatch):
    out, _ = trained
    monkeypatch.setitem(sys.modules, "altair", None)
    assert draw(tmp_path, write_log(tmp_path, read_log(out)), "x") is None


# From beginning to end


def test_a_second_ctrl_c_ends_at_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    with stopping.stopping() as stop:
        for _ in range(2):  # one of them from torchrun
            signal.raise_signal(signal.SIGINT)
        assert stop.asked
        now[0] = 3.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def right(folder: Path, prompt: str) -> float:
    """Part of the 449 held-out scans whose digit is the likeliest next word."""
    model, data = load(str(folder), dtype="float32"), scans()
    rows, said = data.indices("test"), []
    for first in range(0, len(rows), 64):
        some = [model.encode(Prompt(str(row), prompt, data.image(int(row)))) for row in rows[first : first + 64]]
        said += model(model.collate(some)).logits[:, -1].argmax(-1).tolist()
    words = model.tokenizer.convert_ids_to_tokens(said)
    return float(np.mean([word == data.words[data.labels[row]] for word, row in zip(words, rows, strict=True)]))


def test_a_few_steps_on_digits(tmp_path):
    """The halves of digits-mapped, found by its name."""
    changes = ["training.epochs=1", "data.digits.limit=640"]
    done = train_adapter(recipe.load("digits-adapter", recipe.AdapterRecipe, changes), tmp_path / "out", device="cpu")
    assert done.steps == 20
    assert done.log[-1].loss < 0.9 * done.log[0].loss
    facts = load(str(tmp_path / "out"), dtype="float32").facts()
    assert facts["adapter"]["vision"] == facts["adapter"]["language"] == "digits-mapped"


@pytest.mark.slow
def test_digits_are_named(tmp_path):
    train_adapter(recipe.load("digits-adapter", recipe.AdapterRecipe), tmp_path / "out", device="cpu")
    assert right(tmp_path / "out", "<image>: this digit is a") > 0.8


@pytest.mark.slow
def test_two_processes_learn_what_one_does(folder, tmp_path):
    training.adapter_recipe(folder)
    made = ["train", "adapter", str(folder / "recipe.toml")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = str(Path(sys.executable).with_name("actstore"))
    subprocess.run(
        [*launcher, command, *made, str(tmp_path / "two"), "--device", "cpu"], check=True, capture_output=True
    )
    assert main.run([*made, str(tmp_path / "one"), "--device", "cpu"]) == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=0)
    assert log(tmp_path / "two")["examples"].to_list() == [4] * 6
