"""CLIP, an adapter and Gemma-2: what block 0 receives, whatever file the adapter comes in."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel

import tiny
from actstore_extract.families import LoadError, Model, load, sources
from actstore_extract.families.adapter import Adapter, digest, read_adapter, write_adapter
from actstore_extract.families.clip_gemma import assemble
from actstore_extract.families.parts import read_parts
from actstore_extract.forward.capture import Selection, capture

TEXT = "<image><start_of_turn> this digit is a"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip_gemma")
    tiny.save(tiny.model("clip_gemma"), path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def embeddings(model: Model) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """What block 0 receives (length, d), the pixels, and where the image is."""
    encoded = model.encode(tiny.prompts([TEXT])[0])
    everything = [Selection(np.arange(encoded.length))]
    x = capture(model, model.collate([encoded]), everything, layers=[0]).residual[0]
    return x, encoded.inputs["pixel_values"], encoded.layout.image


@pytest.mark.parametrize(("scale", "factor"), [("1", 1.0), ("sqrt(d)", 8.0)])
def test_features_replace_the_input_of_block_0(scale: str, factor: float) -> None:
    vision, language, linear, _ = tiny.clip_gemma_parts()
    model = Model(*tiny.clip_gemma(scale))
    x, pixels, image = embeddings(model)
    assert image.tolist() == list(range(1, 17))  # right after <s>
    with torch.no_grad():
        expected = linear(vision(pixels).last_hidden_state[:, 1:])[0] * factor
    assert torch.equal(x[image], expected)
    ids = model.encode(tiny.prompts([TEXT])[0]).layout.token_ids
    rest = np.setdiff1d(np.arange(len(ids)), image)
    assert torch.equal(x[rest], language.model.embed_tokens.weight[ids[rest]] * 8.0)  # as Gemma scales text, once


def test_the_same_as_gemma_on_the_same_vectors() -> None:
    _, language, _, _ = tiny.clip_gemma_parts()
    model = Model(*tiny.clip_gemma())
    x, _, _ = embeddings(model)
    batch = model.collate([model.encode(tiny.prompts([TEXT])[0])])
    with torch.no_grad():
        expected = language(inputs_embeds=x[None], attention_mask=torch.ones(1, len(x), dtype=torch.long)).logits
    assert torch.equal(model(batch).logits, expected)
    assert expected.abs().max() < 5  # the soft cap


def test_generation_is_gemmas() -> None:
    model = Model(*tiny.clip_gemma())
    batch = model.collate([model.encode(prompt) for prompt in tiny.prompts()], left=True)
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    out = model.module.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    whole = {**inputs, "input_ids": out.sequences, "attention_mask": (out.sequences != 0).long()}
    whole["attention_mask"][:, batch.n_slots :] = 1
    with torch.no_grad():
        again = model.module(**whole, position_ids=(whole["attention_mask"].cumsum(-1) - 1).clamp(0)).logits
    assert (torch.stack(out.logits, 1) - again[:, batch.n_slots - 1 : -1]).abs().max() < 2e-5


def test_facts(folder: Path) -> None:
    facts = load(str(folder), dtype="float32").facts()
    linear = tiny.clip_gemma_parts()[2]
    assert facts["adapter"] == {"scale": "1", "digest": digest(linear)}
    assert (facts["boi"], facts["eoi"], facts["not_found"]) == ([], [], ["boi", "eoi"])
    assert facts["image_token_id"] == 4


@pytest.mark.parametrize("prefix", ["", "module.", "projection.", "model.projection.linear."])
def test_a_state_dict_of_one_linear(copy: Path, prefix: str) -> None:
    linear = nn.Linear(32, tiny.D_MODEL)
    torch.save({prefix + name: tensor for name, tensor in linear.state_dict().items()}, copy / "projector.pth")
    rewrite(copy, adapter="projector.pth", scale="1")
    x, pixels, image = embeddings(load(str(copy), dtype="float32"))
    with torch.no_grad():
        expected = linear(tiny.clip_gemma_parts()[0](pixels).last_hidden_state[0, 1:])
    assert torch.equal(x[image], expected)


def test_the_scale_of_a_state_dict_must_be_said(copy: Path) -> None:
    torch.save(nn.Linear(32, tiny.D_MODEL).state_dict(), copy / "projector.pth")
    rewrite(copy, adapter="projector.pth")
    with pytest.raises(LoadError, match=r"projector.pth: does not say how its output is scaled; set scale = \"1\""):
        load(str(copy))
    rewrite(copy, adapter="projector.pth", scale="sqrt(D)")
    with pytest.raises(LoadError, match=r"projector.pth: unknown scale 'sqrt\(D\)'; did you mean 'sqrt\(d\)'"):
        load(str(copy))
    rewrite(copy, adapter="adapter.safetensors", scale="sqrt(d)")
    with pytest.raises(LoadError, match=r"its metadata says scale '1', not 'sqrt\(d\)'"):
        load(str(copy))


def test_our_own_file(tmp_path: Path) -> None:
    vision, language, linear, _ = tiny.clip_gemma_parts()
    facts = {
        "vision_digest": digest(vision),
        "language_digest": digest(language.model),
        "language": "tiny",
        "recipe": "{}",
    }
    write_adapter(tmp_path / "a.safetensors", Adapter(linear, "sqrt(d)", facts))
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert (adapter.scale, adapter.facts) == ("sqrt(d)", facts)
    first = {**facts, "format": "actstore-adapter-1", "scale": "sqrt(d)"}  # one key for each fact
    save_file(linear.state_dict(), tmp_path / "first.safetensors", first)
    adapter_1 = read_adapter(tmp_path / "first.safetensors")
    assert (adapter_1.scale, adapter_1.facts) == ("sqrt(d)", facts)
    assert torch.equal(adapter.linear.weight, linear.weight)
    assert torch.equal(adapter.linear.bias, linear.bias)
    assemble(vision, language, adapter, 4)
    assemble(vision.bfloat16(), language.bfloat16(), adapter, 4)  # a digest does not depend on the dtype
    with torch.no_grad():
        language.model.layers[2].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(LoadError, match="the adapter was trained with another language model: tiny"):
        assemble(vision, language, adapter, 4)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("exploded"),)


def test_files_that_are_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match="no adapter at .*: put the projector's .pth or .safetensors there"):
        read_adapter(tmp_path / "nothing.pth", scale="1")
    for name, content, reason in (
        ("bomb", {"weight": Bomb()}, "is no state dict of tensors: .*to read that would be to run its code"),
        ("list", [torch.zeros(2)], "is no state dict of tensors"),
        ("two", {"a.weight": torch.zeros(2, 2), "b.weight": torch.zeros(2, 2)}, "holds a.weight, b.weight; a weight"),
        ("mlp", {"weight": torch.zeros(2, 2), "norm": torch.zeros(2)}, "holds norm, weight; a weight and a bias"),
        ("bias", {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}, "a bias of 3 numbers for a weight of 2 x 2"),
        ("none", {}, "holds nothing"),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(LoadError, match=reason):
            read_adapter(tmp_path / f"{name}.pth", scale="1")
    assert not (tmp_path / "exploded").exists()
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1")
        with pytest.raises(LoadError, match=f"{name}"):
            read_adapter(tmp_path / name, scale="1")


def test_widths(copy: Path) -> None:
    save_file({"weight": torch.zeros(tiny.D_MODEL, 48)}, copy / "adapter.safetensors", {"scale": "1"})
    with pytest.raises(LoadError, match="the adapter maps 48 to 64 numbers; these models need 32 to 64"):
        load(str(copy))


def test_vision_of_a_whole_clip(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The published checkpoints hold the half that reads text too; nobody wants to be told."""
    vision = tiny.clip_gemma_parts()[0]
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    ids = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    clip = CLIPModel(CLIPConfig(vision_config=vision.config.to_dict(), text_config={**text, **ids}))
    clip.vision_model.load_state_dict(vision.state_dict())
    clip.save_pretrained(copy / "clip")
    shutil.copy(copy / "vision" / "preprocessor_config.json", copy / "clip")
    rewrite(copy, vision="clip")
    expected = embeddings(Model(*tiny.clip_gemma()))[0]
    capfd.readouterr()
    model = load(str(copy), dtype="float32")
    assert "UNEXPECTED" not in "".join(capfd.readouterr())
    assert torch.equal(embeddings(model)[0], expected)


def rewrite(folder: Path, **entries: str | None) -> None:
    """Change entries of the parts file; None takes one out."""
    file = folder / "parts.toml"
    kept = dict(line.split(" = ") for line in file.read_text().splitlines())
    kept |= {name: f'"{value}"' for name, value in entries.items() if value is not None}
    lines = [f"{name} = {value}" for name, value in kept.items() if entries.get(name, "") is not None]
    file.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"adaptor": "x"}, "unknown entry 'adaptor'; did you mean 'adapter'"),
        ({"vision": None}, "no vision; a clip_gemma model needs vision, language, adapter"),
        ({"family": None}, 'no family; write family = "NAME"'),
        ({"family": "janus"}, "janus models are not made of parts"),
        ({"family": "clipgemma"}, "no family is called 'clipgemma'; did you mean 'clip_gemma'"),
        ({"image_token": "<image>"}, "has no token '<image>': set image_token to one of its own"),
        ({"language": "nobody/nothing"}, "no model at 'nobody/nothing'.* hf download nobody/nothing"),
        ({"vision": "nobody/nothing@1234"}, "no model at 'nobody/nothing'.* hf download nobody/nothing"),
    ],
)
def test_bad_parts(copy: Path, entries: dict[str, str | None], reason: str) -> None:
    rewrite(copy, **entries)
    with pytest.raises(LoadError, match=reason):
        load(str(copy))


def test_parts_files(copy: Path) -> None:
    assert load(str(copy / "parts.toml")).family == "clip_gemma"
    with pytest.raises(LoadError, match=r"a revision belongs to one of its parts; write it there, as name@main"):
        load(str(copy), revision="main")
    rewrite(copy, language="google/gemma-2-2b-it@299a8560")
    parts = read_parts(str(copy))
    assert parts is not None
    assert parts.model("language") == ("google/gemma-2-2b-it", "299a8560")
    assert parts.model("vision") == (str(copy / "vision"), None)
    assert read_parts("google/gemma-2-2b-it") is None
    of_parts = {
        "": (str(copy), None),
        "vision": (str(copy / "vision"), None),
        "language": ("google/gemma-2-2b-it", "299a8560"),
    }
    assert sources(str(copy)) == sources(str(copy / "parts.toml")) == of_parts
    assert sources("google/gemma-2-2b-it", "299a8560") == {"": ("google/gemma-2-2b-it", "299a8560")}
    (copy / "parts.toml").write_text("scale = 1")
    with pytest.raises(LoadError, match=r'scale = 1 is not text; write scale = "..."'):
        load(str(copy))
    (copy / "parts.toml").write_text("scale =")
    with pytest.raises(LoadError, match=r"parts.toml: Invalid value"):
        load(str(copy))


def test_a_scale_that_does_not_fit_is_mentioned() -> None:
    model = tiny.model("clip_gemma")
    assert model.notes() == []
    adapter = model.module.model.multi_modal_projector.linear
    with torch.no_grad():
        adapter.weight /= 20  # as of one that was trained to be multiplied
        adapter.bias /= 20
    (note,) = model.notes()
    assert note.startswith("adapter scale '1': vectors of a picture are 0.015 times as long as those of words; with")
    with torch.no_grad():
        adapter.weight *= 20 * 8  # the root of the width: as if it were multiplied twice
        adapter.bias *= 20 * 8
    assert model.notes() == []  # 2.4 times as long: either may be
