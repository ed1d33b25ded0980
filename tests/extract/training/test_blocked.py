"""Trainings without some attention, and adapters that put the image in behind some blocks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import actstore
import tiny
import trainings
from actstore.commands.main import run
from actstore_extract.families import LoadError, load
from actstore_extract.families.adapter import read_adapter
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.forward.generation import generate
from actstore_extract.interventions.blocks import always_blocked, block_attention, parse_block
from actstore_extract.pictures import open_image
from actstore_extract.training import lora
from actstore_extract.training.adapter import learner
from actstore_extract.training.conversations import Conversation
from actstore_extract.training.loss import losses
from actstore_extract.training.program import train_adapter

BLOCK = {"queries": ["text"], "keys": ["image"]}
BLOCKED = f"model.blocked={[BLOCK]}".replace("'", '"').replace(": ", " = ")


def example(tuned):
    return tuned.encode(Conversation("1", trainings.turns("<image> this", "seven"), "x"), tiny.image())


@pytest.mark.parametrize("kind", ["adapter", "lora"])
@pytest.mark.parametrize("mode", ["pre", "post"])
def test_the_loss_and_its_gradients_are_those_without_the_attention(folder, kind, mode):
    block = {"queries": ["text"], "keys": ["first-image", "image-2"], "mode": mode}
    change = f"model.blocked={[block]}".replace("'", '"').replace(": ", " = ")
    made = {"adapter": trainings.adapter_recipe, "lora": trainings.lora_recipe}[kind]
    if kind == "lora":
        tiny.save(tiny.model("emu3"), folder / "emu3")
    tuned, free = (
        learner(made(folder, *changes), trainings.CPU)
        if kind == "adapter"
        else lora.learner(made(folder, *changes), trainings.CPU)[0]
        for changes in ((change,), ())
    )
    one = example(tuned)
    torch.manual_seed(0)  # of LoRA's dropout
    found = losses(tuned.model, [one]).sum()
    found.backward()
    free_model, batch = free.model, free.model.collate([one.encoded])
    assert losses(free_model, [one]).item() != pytest.approx(found.item(), abs=1e-3)
    torch.manual_seed(0)
    with block_attention(free_model, batch, [parse_block(block, n_layers=free_model.n_layers)]):
        expected = losses(free_model, [one]).sum()
        expected.backward()
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    gradients = [{name: weight.grad for name, weight in which.weights.items()} for which in (tuned, free)]
    assert any(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_training_without_attention_goes_on_as_it_was(folder, tmp_path, capsys):
    """Through the command line: kept in what it made, and compared when it goes on."""
    trainings.adapter_recipe(folder)
    asked = ["train", "adapter", str(folder / "recipe.toml"), str(tmp_path / "out"), "--device", "cpu"]
    assert run([*asked, "--set", BLOCKED]) == 0
    assert (
        "it learns without text -> image, all layers; extraction has that attention unless" in capsys.readouterr().err
    )
    facts = read_adapter(tmp_path / "out" / "adapter.safetensors").facts
    assert json.loads(facts["recipe"])["model"]["blocked"] == [BLOCK]
    assert run(asked) == 1
    assert "blocked" in capsys.readouterr().err
    assert run([*asked, "--set", BLOCKED.replace("image", "imag")]) == 1
    assert "no role is called 'imag'" in capsys.readouterr().err


INJECT = 1
RECIPE = """
[model]
path = "out"
dtype = "float32"
[samples]
source = "table"
path = "images.jsonl"
[prompt]
text = "<image> this digit is a"
[capture]
roles = ["text", "last"]
"""


@pytest.fixture(scope="module")
def later(folder_of_parts):
    """An adapter trained to put the image in at layer INJECT."""
    folder = folder_of_parts
    train_adapter(
        trainings.adapter_recipe(folder, f"model.inject={INJECT}", "training.epochs=1"), folder / "out", device="cpu"
    )
    return folder


@pytest.fixture(scope="module")
def folder_of_parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("later")
    trainings.parts(folder)
    trainings.conversations(folder)
    return folder


@torch.no_grad()
def own_forward(model, encoded):
    """Residual points (layers, tokens, d): block 0 to INJECT - 1 on the text alone, then the image's vectors put in."""
    decoder, n = model.decoder, encoded.length
    image = torch.from_numpy(encoded.layout.image)
    text = torch.tensor([i for i in range(n) if i not in set(image.tolist())])
    features = model.module.model.get_image_features(encoded.inputs["pixel_values"]).pooler_output[0]
    x = model.module.get_input_embeddings()(encoded.inputs["input_ids"])[:, text]
    points, at = [], text
    for layer, block in enumerate(decoder.layers):
        if layer == INJECT:
            whole = torch.empty(1, n, model.d_model)
            whole[:, text], whole[0, image] = x, features
            x, at = whole, torch.arange(n)
        points.append(x)
        apart = at[:, None] - at
        seen = apart >= 0
        if decoder.config.layer_types[layer] == "sliding_attention":
            seen &= apart < decoder.config.sliding_window
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
        x = block(x, position_embeddings=decoder.rotary_emb(x, position_ids=at[None]), attention_mask=mask)
    return [*points, x], text


def test_an_image_that_comes_in_later_is_an_own_forward(later):
    model = load(str(later / "out"), dtype="float32")
    prompt = tiny.prompts(["<image> this digit is a"])[0]
    encoded = model.encode(prompt)
    with pytest.raises(LoadError, match="puts the image in at layer 1: run it under always_blocked"):
        model(model.collate([encoded]))
    always_blocked(model, [])
    expected, text = own_forward(model, encoded)
    batch = model.collate([encoded, model.encode(prompt._replace(sample_id="s1", text="<image> one"))])
    rows = [Selection(np.arange(encoded.length)), Selection(np.arange(1))]
    found = capture(model, batch, rows, layers=[0, 1, 2], next_token=True)
    for layer, own in enumerate(expected):
        here = found.residual[layer, : encoded.length]
        at = text if layer < INJECT else torch.arange(encoded.length)
        torch.testing.assert_close(here[at], own[0, -len(at) :] if layer < INJECT else own[0], atol=1e-5, rtol=0)
    with torch.no_grad():
        logits = model.module.lm_head(model.norm(expected[-1]))[0, -1]
    torch.testing.assert_close(found.next_logits[0], logits, atol=1e-5, rtol=0)
    plain = torch.from_numpy(encoded.layout.image)
    assert (found.residual[0, plain] - found.residual[INJECT, plain]).abs().max() < 1e-5  # what the adapter gives


@torch.no_grad()
def test_what_is_said_behind_it_is_that_of_whole_forwards(later):
    model = always_blocked(load(str(later / "out"), dtype="float32"), [])
    model.module.generation_config.eos_token_id = None
    encoded = model.encode(tiny.prompts(["<image> this digit is a"])[0])
    batch = model.collate([encoded], left=True)
    inputs, tokens = dict(batch.inputs), []
    for _ in range(4):
        with model.held(batch) if not tokens else always_held(model, batch, len(tokens)):
            logits = model.module(**inputs, use_cache=False).logits[0, -1]
        logits[model.image_token_id] = -torch.inf
        tokens.append(int(logits.argmax()))
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[tokens[-1]]])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs.pop("position_ids", None)
    said = model.tokenizer.batch_decode([tokens], skip_special_tokens=True)
    assert generate(model, batch, max_new_tokens=4) == said


def always_held(model, batch, more):
    """The same, of a prompt that has grown."""
    layout = batch.layouts[0]
    grown = replace(
        layout,
        token_ids=np.concatenate([layout.token_ids, np.zeros(more, np.int64)]),
        text=np.concatenate([layout.text, np.arange(more) + layout.length]),
    )
    ids = torch.zeros(1, batch.n_slots + more, dtype=torch.long)
    return model.held(replace(batch, layouts=(grown,), inputs={**batch.inputs, "input_ids": ids}))


def test_it_is_extracted_from_where_the_image_is(later, monkeypatch, capsys):
    monkeypatch.chdir(later)
    tiny.image(0, (8, 8)).save("0.png")
    (later / "images.jsonl").write_text(json.dumps({"sample_id": "s", "image": "0.png", "label": "one"}) + "\n")
    (later / "recipe.toml").write_text(RECIPE)
    asked = ["extract", "recipe.toml"]
    assert run([*asked, "s", "--device", "cpu"]) == 0
    store = actstore.open("s")
    assert store.run["inject"] == INJECT
    model = load(str(later / "out"), dtype="float32")
    prompt = tiny.prompts(["<image> this digit is a"])[0]._replace(image=open_image(later / "0.png"))
    expected, _ = own_forward(model, model.encode(prompt))
    for layer in store.layers:
        rows = store.sql("from rows where role = 'last'")
        np.testing.assert_allclose(store.residual(rows, layer)[0], expected[layer][0, -1], atol=1e-5)
    whole = ("--set", 'capture.roles=["image", "image-mean", "all"]', "--set", 'capture.kv=["all"]')
    assert run([*asked, "u", *whole, "--device", "cpu"]) == 0
    store = actstore.open("u")
    assert store.header.image_from == INJECT
    for layer in store.layers:
        found = store.residual(store.sql("from rows where role = 'all' order by k"), layer)
        if layer < INJECT:
            assert np.isnan(found[1:17]).all()
            found = np.delete(found, np.s_[1:17], axis=0)
        np.testing.assert_allclose(found, expected[layer][0], atol=1e-5)
        found = store.residual(store.sql("from rows where role = 'image-mean'"), layer)[0]
        mean = np.full(model.d_model, np.nan) if layer < INJECT else expected[layer][0, 1:17].numpy().mean(0)
        np.testing.assert_allclose(found, mean, atol=1e-5)
    rows = store.sql("from rows where role = 'all' order by k")
    for block in store.blocks:
        nothing = np.isnan(np.stack([store.keys(rows, block), store.values(rows, block)])).all((0, 2))
        assert nothing.tolist() == [block < INJECT and 1 <= k < 17 for k in rows["k"]]
    source = "from rows where role = 'all' order by k desc limit 1"
    assert run(["patch", "u", "--role", "last", "--source", source, "--layers", "1"]) == 1
    assert "puts the image in at layer 1, which a replay does not do" in capsys.readouterr().err


def test_measures_leave_out_what_is_not_there_yet(later, monkeypatch, capsys):
    monkeypatch.chdir(later)
    named = []
    for i in range(6):
        tiny.image(i, (8, 8)).save(f"{i}.png")
        named.append({"sample_id": f"s{i}", "image": f"{i}.png", "label": ["one", "two"][i % 2]})
    (later / "images.jsonl").write_text("".join(json.dumps(one) + "\n" for one in named))
    (later / "recipe.toml").write_text(RECIPE)
    changes = ('capture.roles=["image", "image-mean", "last", "all"]', "capture.mass=true", "capture.lens=true")
    asked = ["extract", "recipe.toml", "m", "--device", "cpu"] + [word for one in changes for word in ("--set", one)]
    patch = 'conditions=[{ name = "p", patch = "last-image", pairs = [["one", "two"]], layers = [0, 2] }]'
    assert run([*asked, "--set", patch]) == 1
    assert "last-image at layer 0: this adapter puts the image in at layer 1" in capsys.readouterr().err
    assert run(asked) == 0
    capsys.readouterr()
    for words in (["overlap", "-k", "1"], ["overlap", "-k", "1"], ["outliers"], ["lens"]):  # once more: recalled
        assert run([words[0], "m", "--roles", "image-mean,last,all", *words[1:]]) == 0, words
        out, err = capsys.readouterr()
        at = {(row["role"], row["layer"]) for row in map(json.loads, out.splitlines())}
        everywhere = {(role, layer) for role in ("image-mean", "last", "all") for layer in (0, 1, 2)}
        assert at == everywhere - {("image-mean", 0), ("all", 0)}, words
        assert "takes the image in at layer 1; what has its positions is measured from there" in err
        status = run([words[0], "m", "--roles", "image-mean", "--layers", "0", *words[1:]])
        assert (status, "takes the image in at layer 1" in capsys.readouterr().err) == (1, True), words
    eye, none = np.eye(64, dtype=np.float32), np.zeros(64, np.float32)
    for layer in (0, 1):
        (at := later / "saes" / f"layer_{layer}").mkdir(parents=True)
        save_file({"W_enc": eye, "W_dec": eye, "b_enc": none, "b_dec": none}, at / "sae_weights.safetensors")
        facts = {"architecture": "standard", "d_in": 64, "d_sae": 64, "dtype": "float32"}
        (at / "cfg.json").write_text(json.dumps({**facts, "hook_name": f"blocks.{layer}.hook_resid_pre"}))
    assert run(["sae", "m", "--saes", "saes", "--roles", "image,last"]) == 0
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert {(row["role"], row["layer"]) for row in rows} == {("last", 0), ("last", 1), ("image", 1)}
    sides = ["--text", "role = 'last'", "--image", "role = 'image-mean'"]
    for words in (["gap", "m", *sides], ["attention", "m"]):
        assert run(words) == 0
        assert 0 not in {json.loads(line)["layer"] for line in capsys.readouterr().out.splitlines()}
    assert run(["cka", "m", "--roles", "image-mean"]) == 1
    assert "choose --layers from there on" in capsys.readouterr().err
    assert run(["export", "m", "from rows where role = 'image'", "--layer", "0", "-o", "x.sae-lens"]) == 1
    assert "hold nothing there, of an image that the model takes in later" in capsys.readouterr().err
    assert run(["show", "m", "s0"]) == 0
    capsys.readouterr()
    assert run(["info", "m", "--format", "table"]) == 0
    assert "layer 1: what is of the image is NaN before" in capsys.readouterr().out
    assert run(["verify", "m"]) == 0
    assert run(["recompute", "m"]) == 0


def test_where_an_image_cannot_come_in(later, folder):
    with pytest.raises(LoadError, match="inject 2: an image comes in at layer 0 to 1, in front of a block"):
        learner(trainings.adapter_recipe(folder, "model.inject=2"), trainings.CPU)
    with pytest.raises(LoadError, match="puts the image in at layer 1; set model.inject to it"):
        learner(trainings.adapter_recipe(folder, f"model.adapter={later / 'out'}"), trainings.CPU)


def knocked(path, model, capsys):
    """Accuracy of a model on held-out scans as it is, and with its text kept from the end of the image, or from it."""
    keys = ["model.path=" + str(model), "samples.limit=150", 'conditions=["eoi-knockout", "image-knockout"]']
    keys += ['capture.roles=["last"]', "capture.layers=[-1]"]
    asked = ["extract", "digits-fusion-knockout", str(path), *(word for key in keys for word in ("--set", key))]
    assert run([*asked, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert run(["knockout", str(path), "-k", "5"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["knockout"]: row["value"] for row in rows if row["metric"] == "accuracy"}


def test_the_recipe_that_ships_trains_what_its_text_cannot_see(tmp_path, capsys):
    short = ("data.digits.limit=32", "training.epochs=1", "training.batch_size=8")
    asked = ["train", "lora", "digits-lora", str(tmp_path / "out"), "--device", "cpu"]
    assert run([*asked, *(word for key in short for word in ("--set", key))]) == 0
    assert "4 steps, loss" in capsys.readouterr().err
    kept = json.loads((tmp_path / "out" / "training.json").read_text())["recipe"]["model"]["blocked"]
    assert kept == [{"queries": ["text"], "keys": ["image"]}]
    assert load(str(tmp_path / "out")).family == "chameleon"


@pytest.mark.slow
def test_a_model_that_learns_without_its_gate_uses_the_image(tmp_path, capsys):
    before = knocked(tmp_path / "before", "digits-gated", capsys)
    assert before["eoi-knockout"] < 0.1
    changes = ("model.path=digits-gated", 'model.blocked=[{ queries = ["text"], keys = ["eoi"] }]')
    asked = ["train", "lora", "digits-lora", str(tmp_path / "out"), "--device", "cpu"]
    assert run([*asked, *(word for key in changes for word in ("--set", key))]) == 0
    after = knocked(tmp_path / "after", tmp_path / "out", capsys)
    assert after["eoi-knockout"] > 0.9 > after["image-knockout"] + 0.4


@pytest.mark.slow
def test_a_model_that_learns_without_its_image_makes_a_gate(tmp_path, capsys):
    before = knocked(tmp_path / "before", "digits-fusion", capsys)
    assert run(["train", "lora", "digits-lora", str(tmp_path / "out"), "--device", "cpu"]) == 0
    after = knocked(tmp_path / "after", tmp_path / "out", capsys)
    assert after["image-knockout"] > 0.8 > 0.2 > before["image-knockout"]
