"""LoRA training: an Emu3 that learns to answer, and still draws."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import layouts
import tiny
import trainings
from actstore.errors import ActstoreError
from actstore.storage import local
from actstore_extract.families import LoadError, Prompt, SampleError, load, sources
from actstore_extract.run.fingerprint import fingerprint
from actstore_extract.samples.digits import scans
from actstore_extract.training import loop, recipe
from actstore_extract.training.conversations import Conversation, Turn
from actstore_extract.training.data import gather
from actstore_extract.training.examples import Encoder
from actstore_extract.training.lora import learner
from actstore_extract.training.loss import losses
from actstore_extract.training.program import train_lora

CPU = torch.device("cpu")
DRAWING = ["data.drawings.source=digits", "data.drawings.split=train", "data.drawings.limit=8"]
DRAWING += ['data.drawings.prompt="a {label} "', "data.drawings.answer=<image>"]
DRAWING += [f'data.drawings.chat_template="{trainings.PLAIN}"']


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lora")
    tiny.save(tiny.model("emu3"), path / "emu3")
    return path


@pytest.fixture(scope="module")
def emu3():
    return Encoder(tiny.model("emu3"), 64, image_first=False)


@pytest.fixture(scope="module")
def trained(folder):
    train_lora(trainings.lora_recipe(folder, *DRAWING), folder / "out", device="cpu")
    return folder / "out"


def turns(*texts):
    return tuple(Turn(("human", "gpt")[i % 2], text) for i, text in enumerate(texts))


def named(encoder, example, span=slice(None)):
    return encoder.model.tokenizer.convert_ids_to_tokens(example.encoded.layout.token_ids[span].tolist())


def test_answers_token_by_token(emu3):
    said = Conversation("1", turns("this <image> digit is", "seven", "and", "a one"), "x")
    example = emu3(said, tiny.image(), trainings.EMU3)
    image = ["<|image start|>", "4", "*", "4", "<|image token|>", *["<image>"] * 20, "<|extra_201|>", "<|image end|>"]
    assert named(emu3, example) == [
        "<s>", "this", *image, "digit", "is", ":", "seven", "</s>", "<unk>", ":", "a", "one", "</s>",
    ]  # fmt: skip
    found = [named(emu3, example, slice(*span)) for span in example.spans]
    assert found == [["seven", "</s>"], ["a", "one", "</s>"]]


def test_a_drawing_is_an_answer(emu3):
    example = emu3(Conversation("1", turns("this is a one ", "<image>"), "x"), tiny.image(), trainings.PLAIN)
    ((start, stop),) = example.spans
    found = named(emu3, example, slice(start, stop))
    assert (found[0], found[-2:]) == ("<|image start|>", ["<|extra_201|>", "<|image end|>"])
    assert found.count("<image>") == 20
    assert stop == example.encoded.length


def test_what_is_drawn_are_the_codes(emu3):
    """The loss is of the codes themselves, not of the placeholder that stands for them."""
    model, example = emu3.model, emu3(Conversation("1", turns("a ", "<image>"), "x"), tiny.image(), trainings.PLAIN)
    inputs, ((start, stop),) = example.encoded.inputs, example.spans
    with torch.no_grad():
        codes = model.module.model.get_image_tokens(inputs["pixel_values"], inputs["image_sizes"])
        ids = inputs["input_ids"][0].clone()
        ids[ids == model.image_token_id] = codes.long()
        chances = model.module(input_ids=ids[None]).logits[0].log_softmax(-1)
    expected = np.mean([-chances[i - 1, ids[i]].item() for i in range(start, stop)])
    assert losses(model, [example]).item() == pytest.approx(expected, abs=1e-5)


def test_text_alone(emu3):
    example = emu3(Conversation("1", turns("this is a", "one"), None), None, trainings.EMU3)
    assert named(emu3, example) == ["<s>", "this", "is", "a", ":", "one", "</s>"]
    assert example.spans == ((5, 7),)


def test_the_image_is_never_cut(emu3):
    short = Encoder(emu3.model, 6, image_first=False)
    example = short(Conversation("1", turns("this <image> is", "seven . one two"), "x"), tiny.image(), trainings.EMU3)
    assert named(emu3, example)[-4:] == ["is", ":", "seven", "."]
    assert example.cut
    late = Conversation("1", turns("this is a one , this is a <image>", "seven"), "x")
    with pytest.raises(SampleError, match="max_length 6 would cut the image, which ends at token 36"):
        short(late, tiny.image(), trainings.EMU3)


def test_only_emu3_draws():
    encoder = Encoder(tiny.model("janus"), 64, image_first=False)
    with pytest.raises(SampleError, match="an image as answer: janus models do not draw"):
        encoder(Conversation("1", turns("a ", "<image>"), "x"), tiny.image(), trainings.PLAIN)


def test_only_the_decoder_learns(folder):
    tuned, _ = learner(trainings.lora_recipe(folder, "model.dtype=bfloat16"), CPU)
    module = tuned.model.module
    assert set(tuned.weights) == {name for name, weight in module.named_parameters() if weight.requires_grad}
    assert len(tuned.weights) == 2 * 4 * tiny.N_LAYERS
    assert all(name.startswith("model.text_model.layers.") for name in tuned.weights)
    assert {weight.dtype for weight in tuned.weights.values()} == {torch.float32}
    assert tuned.model.dtype == torch.bfloat16
    dropouts = {name for name, one in module.named_modules() if isinstance(one, torch.nn.Dropout) and one.training}
    assert dropouts
    assert all("lora_dropout" in name for name in dropouts)


def test_kept_apart_or_merged_it_is_the_same_model(folder, trained):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "losses", None)  # nothing is learned again
        shutil.copytree(trained, folder / "merged")
        train_lora(trainings.lora_recipe(folder, *DRAWING), folder / "merged", device="cpu", merge=True)
    assert not (folder / "merged" / "parts.toml").exists()
    prompt = tiny.prompts(["<image> this digit is a :"])[0]
    said = []
    for path in (folder / "emu3", trained, folder / "merged"):
        model = load(str(path), dtype="float32")
        assert model.family == "emu3"
        assert not any("lora" in name for name, _ in model.module.named_modules())
        said.append(model(model.collate([model.encode(prompt)])).logits)
    torch.testing.assert_close(said[1], said[2], atol=1e-4, rtol=0)
    assert (said[0] - said[1]).abs().max() > 0.1


def test_merged_and_apart_by_turns_leave_one_model(folder, trained, tmp_path):
    """Peft's files beside merged weights would be applied to them once more."""
    shutil.copytree(trained, tmp_path / "out")
    both = []
    for merge in (True, False):
        train_lora(trainings.lora_recipe(folder, *DRAWING), tmp_path / "out", device="cpu", merge=merge)
        both.append({path.name for path in (tmp_path / "out").iterdir()})
    assert both[1] == {path.name for path in trained.iterdir()}
    shared = {"checkpoint.state", "log.parquet", "log.png", "training.json"}
    assert both[0] & both[1] == shared
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= both[0]
    prompt = tiny.prompts(["<image> this digit is a :"])[0]
    models = [load(str(path), dtype="float32") for path in (trained, tmp_path / "out")]
    first, second = (model(model.collate([model.encode(prompt)])).logits for model in models)
    assert torch.equal(first, second)


@pytest.mark.parametrize("merge", [True, False])
def test_killed_while_it_writes(folder, trained, tmp_path, monkeypatch, merge):
    """What was written by half is written again, and what another call wrote does not stay."""
    shutil.copytree(trained, tmp_path / "out")
    made = trainings.lora_recipe(folder, *DRAWING)
    moved = 0

    def dying(*arguments):
        nonlocal moved
        moved += 1
        if moved == 2:
            raise RuntimeError("killed")
        return replace(*arguments)

    replace = local.replace
    with monkeypatch.context() as patch:
        patch.setattr(local, "replace", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train_lora(made, tmp_path / "out", device="cpu", merge=True)
    train_lora(made, tmp_path / "out", device="cpu", merge=merge)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("model.safetensors" in names, "adapter_model.safetensors" in names) == (merge, not merge)
    assert not any(name.startswith(".") for name in names)
    load(str(tmp_path / "out"), dtype="float32")


@pytest.mark.parametrize("merge", [True, False])
def test_files_are_for_those_whom_the_umask_lets_read(folder, trained, tmp_path, merge):
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(trained / "checkpoint.state", out)
    before = os.umask(0o027)
    try:
        train_lora(trainings.lora_recipe(folder, *DRAWING), out, device="cpu", merge=merge)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in out.glob("*model.safetensors")} == {0o640}


@pytest.mark.parametrize("merge", [True, False])
def test_a_full_disk_is_said(folder, trained, disk_of, merge):
    kept = trained / "checkpoint.state"
    out = disk_of(f"{kept.stat().st_size + 2**15}") / "out"
    out.mkdir()
    shutil.copy(kept, out)
    with pytest.raises(OSError, match="No space left on device") as found:
        train_lora(trainings.lora_recipe(folder, *DRAWING), out, device="cpu", merge=merge)
    assert found.value.filename == str(out)
    assert not list(out.glob("*.safetensors"))


def test_a_finished_training_writes_nothing(folder, trained):
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in trained.iterdir()}
    assert train_lora(trainings.lora_recipe(folder, *DRAWING), trained, device="cpu").finished
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in trained.iterdir()} == before


def test_what_is_kept(folder, trained):
    assert sorted(path.name for path in trained.iterdir() if path.suffix != ".md") == [
        "adapter_config.json", "adapter_model.safetensors", "checkpoint.state", "log.parquet", "log.png",
        "parts.toml", "training.json",
    ]  # fmt: skip
    facts = json.loads((trained / "training.json").read_text())
    assert facts["steps"] == 8
    assert facts["recipe"]["lora"]["rank"] == 4
    assert len(facts["base"]["weights_sha256"]) == 64
    assert sources(str(trained)) == {"": (str(trained), None), "model": (str(trained / "../emu3"), None)}
    prints = fingerprint(str(trained))
    assert prints != fingerprint(str(folder / "emu3"))
    (trained / "checkpoint.state").rename(trained / "elsewhere")
    assert fingerprint(str(trained)) == prints
    (trained / "elsewhere").rename(trained / "checkpoint.state")


def test_stopped_and_gone_on_is_the_same_to_the_bit(folder, trained, tmp_path, monkeypatch):
    """What dropout drops, too."""
    calls = 0

    def dying(*arguments):
        nonlocal calls
        calls += 1
        if calls == 14:
            raise RuntimeError("killed")
        return losses(*arguments)

    made = trainings.lora_recipe(folder, *DRAWING)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "losses", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train_lora(made, tmp_path, device="cpu")
    assert train_lora(made, tmp_path, device="cpu").finished
    first, second = (load_file(path / "adapter_model.safetensors") for path in (trained, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ActstoreError, match=r"lora.rank: 4 in the checkpoint, 8 now"):
        train_lora(trainings.lora_recipe(folder, "lora.rank=8", *DRAWING), tmp_path, device="cpu")


def test_mistakes(folder, trained, tmp_path):
    with pytest.raises(LoadError, match=r"no block has a map 'query_proj'; did you mean 'q_proj'\? There is down_proj"):
        learner(trainings.lora_recipe(folder, 'lora.targets=["query_proj"]'), CPU)
    other = Path(shutil.copytree(folder / "emu3", tmp_path / "emu3"))
    weights = load_file(other / "model.safetensors")
    save_file({name: x * 1.5 for name, x in weights.items()}, other / "model.safetensors", {"format": "pt"})
    shutil.copytree(trained, tmp_path / "out")
    with pytest.raises(LoadError, match=r"out was trained in another model than .*emu3"):
        load(str(tmp_path / "out"))
    (tmp_path / "out" / "parts.toml").write_text('family = "emu3"\nlora = "."\n')
    with pytest.raises(LoadError, match="no model; a emu3 model needs model, lora"):
        load(str(tmp_path / "out"))


def test_the_papers_mixture_in_its_publishers_files(folder, tmp_path):
    roots = {name: layouts.LAYOUTS[name](tmp_path / name) for name in ("vqav2", "coco", "llava")}
    changes = [f"data.{name}.path={path}" for name, path in roots.items()]
    changes += ["data.vqav2.split=val2014", "data.coco.split=val2014", f"data.llava.images={tmp_path}/llava"]
    made = recipe.load("emu3-lora", recipe.LoraRecipe, changes)
    data, said = gather(made.data, images_only=False, skip_bad=False)
    assert not said
    by_set = {
        one.sample_id: one.turns for one in (data.conversation(number)[0] for number in range(len(data))) if one.image
    }
    assert Turn("human", "<image>What is this?\nAnswer the question using a single word or phrase.") in {
        spoken[0] for spoken in by_set.values()
    }
    assert {spoken[1].text for name, spoken in by_set.items() if name.startswith("COCO")} == {"This is a one."}
    encoder = Encoder(tiny.model("emu3"), 1024, image_first=False)
    for number in range(len(data)):
        image = data.image(number)
        example = encoder(data.conversation(number)[0], image, made.model.chat_template)
        assert example.spans
        assert named(encoder, example)[example.spans[-1][1] - 1] == "</s>"
    (roots["coco"] / "val2014" / "COCO_val2014_000000391895.jpg").unlink()
    with pytest.raises(
        ActstoreError, match=r"1 of .* examples cannot be used:\n  coco: COCO_val2014_000000391895.jpg: no"
    ):
        gather(made.data, images_only=False, skip_bad=False)


# From beginning to end


def drawn(model) -> list[list[str]]:
    """What the model draws for each digit, token by token."""
    prompts = [f"a {word} " for word in scans().words]
    options = {"return_for_image_generation": True, "image_area": 32 * 32, "padding": True, "padding_side": "left"}
    inputs = model.processor(text=prompts, return_tensors="pt", **options)
    inputs.pop("image_sizes")
    tokens = model.module.generate(**inputs, max_new_tokens=22, do_sample=False, eos_token_id=None)
    return [model.tokenizer.convert_ids_to_tokens(row.tolist()) for row in tokens[:, inputs["input_ids"].shape[1] :]]


def whole(tokens: list[str]) -> bool:
    """Whether a drawing is four lines of four codes, each with its end, and the end of frame and image."""
    line = ["code"] * 4 + ["<|extra_200|>"]
    kinds = ["code" if token.startswith("<|visual token") else token for token in tokens]
    return kinds == line * 4 + ["<|extra_201|>", "<|image end|>"]


def right(model) -> float:
    """Part of 200 held-out scans whose digit is the likeliest answer."""
    data = scans()
    rows = data.indices("test")[:200]
    encoded = [model.encode(Prompt(str(row), "<image> this digit is a :", data.image(int(row)))) for row in rows]
    said = model(model.collate(encoded)).logits[:, -1].argmax(-1)
    words = model.tokenizer.convert_ids_to_tokens(said.tolist())
    return float(np.mean([word == data.words[data.labels[row]] for word, row in zip(words, rows, strict=True)]))


@pytest.mark.slow
def test_answers_better_after_than_before_and_still_draws(tmp_path):
    """A tiny Emu3 learns to draw digits, all of it; then LoRA teaches it to name them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "spread", lambda module: module.eval())
        model = tiny.model("emu3")
    torch.nn.init.normal_(model.module.lm_head.weight, std=0.2)  # to be sure of itself, frozen, it must be large
    made = trainings.lora_recipe(tmp_path, *DRAWING, "data.drawings.limit=1148")
    data, _ = gather({"drawings": made.data["drawings"]}, images_only=False, skip_bad=False)
    encode = Encoder(model, 64, image_first=False)
    examples = [encode(data.conversation(i)[0], data.image(i), trainings.PLAIN) for i in range(400)]
    learned = [weight for name, weight in model.module.named_parameters() if "vqmodel" not in name]
    optimizer, order = torch.optim.AdamW(learned, lr=2e-3), np.random.default_rng(0)
    for _ in range(100):
        losses(model, [examples[i] for i in order.integers(400, size=16)]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    tiny.save(model, tmp_path / "emu3")
    before = load(str(tmp_path / "emu3"), dtype="float32")
    assert all(map(whole, drawn(before)))
    named = right(before)
    assert named < 0.15
    changes = ["data.answers.limit=1148", "lora.rank=16", "lora.alpha=32", "lora.dropout=0.0", "training.batch_size=32"]
    changes += ['lora.targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]']
    changes += ["training.epochs=3", "training.micro_batch=16", "training.warm_up=0.1", "data.drawings.limit=1148"]
    made = trainings.lora_recipe(tmp_path, *DRAWING, *changes)
    done = train_lora(made, tmp_path / "out", device="cpu")
    after = load(str(tmp_path / "out"), dtype="float32")
    assert done.log[-1].loss < done.log[0].loss
    assert right(after) > named + 0.1  # how far it gets differs by CPU
    assert all(map(whole, drawn(after)))
