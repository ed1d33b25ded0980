"""Families: every token of a sample is known for what it is, and bad samples say why."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.image_transforms import convert_to_rgb
from transformers.utils import is_torchvision_available

import tiny
from actstore_extract import hub
from actstore_extract.families import LoadError, Model, Prompt, SampleError, load
from actstore_extract.families.sample import LayoutError
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.interventions.blocks import always_blocked

IMAGE_TEXT, TEXT_IMAGE, TEXT = "<image> this digit is a", "this digit is a <image>", "this digit is a"


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny.model(request.param)


@pytest.fixture(scope="module")
def chameleon() -> Model:
    return tiny.model("chameleon")


def encode(model: Model, text: str, seed: int = 0):
    return model.encode(tiny.prompts([text])[0]._replace(image=tiny.image(seed) if "<image>" in text else None))


def embeddings(model: Model, encoded) -> torch.Tensor:
    """What block 0 receives, (length, d)."""
    seen = []
    handle = model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(model.collate([encoded]))
    handle.remove()
    return seen[0][0]


def features(model: Model, encoded) -> torch.Tensor:
    """What the model's vision side gives for the placeholders of a sample, (placeholders, d)."""
    inputs = {k: v for k, v in encoded.inputs.items() if k in ("pixel_values", "image_sizes", "batch_num_images")}
    with torch.no_grad():
        found = model.module.model.get_image_features(**inputs, return_dict=True).pooler_output
    return torch.cat(list(found)).reshape(-1, model.d_model)


@pytest.mark.parametrize("text", [IMAGE_TEXT, TEXT_IMAGE])
def test_positions_hold_what_the_model_puts_there(model: Model, text: str) -> None:
    encoded = encode(model, text)
    layout, x = encoded.layout, embeddings(model, encoded)
    placeholders = layout.token_ids == model.image_token_id
    assert torch.equal(x[placeholders], features(model, encoded))
    assert placeholders[layout.image].all()
    assert set(np.flatnonzero(placeholders)) <= {*layout.image, *layout.eol}
    table = model.module.get_input_embeddings()
    assert torch.equal(x[~placeholders], table(torch.from_numpy(layout.token_ids[~placeholders])))
    words = [model.vocabulary()[i] for i in layout.token_ids[layout.text]]
    assert words == ["this", "digit", "is", "a"]
    assert layout.grid == (4, 4)
    assert len(layout.image) in (16, 20)  # 20 with LLaVA-OneVision's overview


def test_roles_are_told_apart(model: Model) -> None:
    """No position has two kinds of role, and all but the machinery and the first token have one."""
    for text in (IMAGE_TEXT, TEXT_IMAGE):
        layout = encode(model, text).layout
        one = [x for x in (layout.boi, layout.eoi, *layout.special.values()) if x is not None]
        known = [*layout.image, *layout.eol, *layout.text, *one]
        assert len(set(known)) == len(known)
        rest = set(range(layout.length)) - set(known)
        names = [model.vocabulary()[layout.token_ids[i]] for i in sorted(rest)]
        assert set(names) <= {"<s>", "4", "*", "<|image token|>"}


SIZES = [(8, 8), (16, 8), (8, 16), (16, 16), (8, 8)]
TEXTS = [IMAGE_TEXT, "<image> this", TEXT_IMAGE, "<image> this is a one , this is a two", "<image> one"]


@pytest.mark.parametrize("left", [False, True])
def test_images_of_all_sizes_in_one_call(model: Model, left: bool) -> None:
    """Batched with the others as the family allows, every vector is that of the sample alone."""
    encoded = [model.encode(prompt) for prompt in tiny.prompts(TEXTS, SIZES)]
    batches = model.batches(encoded, 3)
    assert sorted(i for batch in batches for i in batch) == list(range(len(TEXTS)))
    assert max(map(len, batches)) >= 2
    for batch in batches:
        together = residual(model, [encoded[i] for i in batch], left=left)
        for i, got in zip(batch, together, strict=True):
            assert relative(got, residual(model, [encoded[i]])[0]) <= 1e-5


def test_a_batch_of_other_images_is_seen(model: Model) -> None:
    """The control of the test above: the same prompt with another image is not within its tolerance."""
    encoded = [model.encode(prompt) for prompt in tiny.prompts([IMAGE_TEXT, IMAGE_TEXT])]
    first, second = residual(model, encoded)
    assert relative(first, second) > 1e-3


def residual(model: Model, encoded, *, left: bool = False) -> list[torch.Tensor]:
    """All residual points of each sample, (layers, length, d)."""
    batch = model.collate(encoded, left=left)
    everything = [Selection(np.arange(sample.length)) for sample in encoded]
    kept = capture(model, batch, everything, layers=range(model.n_layers + 1)).residual
    return list(kept.split([sample.length for sample in encoded], dim=1))


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    """Largest difference over the largest value; NaN, which passes no comparison, if there is one."""
    return float((x - y).abs().max() / y.abs().max())


def test_chameleon_layout(chameleon: Model) -> None:
    layout = encode(chameleon, IMAGE_TEXT).layout
    assert (layout.boi, layout.eoi, layout.image.tolist()) == (1, 18, list(range(2, 18)))
    assert (layout.text.tolist(), layout.text_before.tolist(), layout.length) == ([19, 20, 21, 22], [], 23)
    layout = encode(chameleon, TEXT_IMAGE).layout
    assert (layout.boi, layout.eoi, layout.image.tolist()) == (5, 22, list(range(6, 22)))
    assert layout.text.tolist() == layout.text_before.tolist() == [1, 2, 3, 4]
    assert chameleon.vocabulary()[layout.token_ids[5]] == "<racm3:break>"


def test_text_alone(model: Model) -> None:
    layout = encode(model, TEXT).layout
    words = [model.vocabulary()[i] for i in layout.token_ids[layout.text]]
    assert words == ["this", "digit", "is", "a"]
    assert (len(layout.image), layout.boi, layout.eoi, layout.grid) == (0, None, None, None)


def test_images_differ(model: Model) -> None:
    """Else every test here would pass on a model that ignores its images."""
    x, y = (embeddings(model, encode(model, IMAGE_TEXT, seed)) for seed in (0, 1))
    assert not torch.equal(x, y)


def test_generic_finds_what_a_model_declares() -> None:
    module, processor = tiny.chameleon()
    own, generic = Model(module, processor), Model(module, processor, family="generic")
    text = "this is <image> one , two"
    a, b = (model.encode(Prompt("s", text, tiny.image())) for model in (own, generic))
    assert a.layout.eoi == b.layout.eoi == 20
    assert a.layout.boi == b.layout.boi == 3
    # the processor's separator of chats, which the family of its own leaves out
    assert b.length == a.length + 1


def test_notes_say_what_could_not_be_found() -> None:
    (note,) = tiny.model("llava_gemma").notes()
    assert note.endswith("nothing declares what stands around an image, so there is no boi and no eoi")
    (note,) = tiny.model("llama").notes()
    assert note == "LlamaForCausalLM: its configuration names no image token, so it runs as a model of text alone"
    assert not any(tiny.model(name).notes() for name in tiny.SYSTEMS if name != "llava_gemma")


def test_facts_say_what_was_not_found() -> None:
    facts = tiny.model("llava_gemma").facts()
    assert facts["architecture"] == "LlavaForConditionalGeneration"
    assert facts["family"] == "generic"
    assert facts["not_found"] == ["boi", "eoi"]
    assert tiny.model("llama").facts()["not_found"] == ["image", "boi", "eoi"]
    assert tiny.model("chameleon").facts()["eoi"] == ["<eoss>"]
    json.dumps(facts)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (Prompt("s", "this digit", tiny.image()), "an image but no <image> in the prompt 'this digit'"),
        (Prompt("s", "<image> this", None), "<image> in the prompt but no image"),
        (Prompt("s", "<image> this <image>", tiny.image()), "2 <image> in the prompt for 1 image of the sample"),
        (Prompt("s", "<image> this", (tiny.image(), tiny.image())), "1 <image> in the prompt for 2 images of"),
    ],
)
def test_bad_prompts(chameleon: Model, prompt: Prompt, reason: str) -> None:
    with pytest.raises(SampleError, match=f"^s: {reason}"):
        chameleon.encode(prompt)


def test_image_for_a_text_model() -> None:
    with pytest.raises(SampleError, match="a model without image token"):
        tiny.model("llama").encode(Prompt("s", IMAGE_TEXT, tiny.image()))


def test_broken_image(chameleon: Model, tmp_path: Path) -> None:
    tiny.image(size=(64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(SampleError, match="image file is truncated"):
        chameleon.encode(Prompt("s", IMAGE_TEXT, image))


@pytest.mark.parametrize("max_length", [10, 16])
def test_truncated_prompt(model: Model, monkeypatch: pytest.MonkeyPatch, max_length: int) -> None:
    length = encode(model, IMAGE_TEXT).length
    options = {**model.kind.process_options, "text_kwargs": {"truncation": True, "max_length": max_length}}
    monkeypatch.setattr(type(model.kind), "process_options", options)
    with pytest.raises(SampleError, match=r"^s0: .*(Mismatch in `image` token count|the prompt was cut)"):
        encode(model, IMAGE_TEXT)
    options["text_kwargs"]["max_length"] = length
    encode(model, IMAGE_TEXT)


def test_image_without_its_end(chameleon: Model) -> None:
    token_ids = encode(chameleon, IMAGE_TEXT).layout.token_ids
    with pytest.raises(LayoutError, match="no <eoss> after the image: the prompt was cut"):
        chameleon.kind.layout(chameleon, token_ids[:18], {})
    with pytest.raises(LayoutError, match="no <racm3:break> in front of the image: the prompt was cut"):
        chameleon.kind.layout(chameleon, token_ids[2:], {})
    with pytest.raises(LayoutError, match="15 of 16 image tokens: the prompt was cut"):
        chameleon.kind.layout(chameleon, token_ids[:17], {})


def test_the_models_own_marker_is_a_marker() -> None:
    pixtral = tiny.model("pixtral")
    layout = pixtral.encode(Prompt("s", "[IMG] this digit is a", tiny.image())).layout
    assert layout.image.tolist() == encode(pixtral, IMAGE_TEXT).layout.image.tolist()
    with pytest.raises(SampleError, match="2 <image> in the prompt for 1 image of the sample"):
        pixtral.encode(Prompt("s", "<image> this [IMG]", tiny.image()))
    with pytest.raises(SampleError, match="in the prompt but no image"):
        pixtral.encode(Prompt("s", "this [IMG]"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_any_mode_of_image(chameleon: Model, mode: str) -> None:
    picture = tiny.image().convert(mode)
    if mode.endswith("A"):
        picture.putalpha(tiny.image(1).convert("L"))
    got = chameleon.encode(Prompt("s", IMAGE_TEXT, picture))
    theirs = Image.fromarray(convert_to_rgb(picture, return_numpy=True))
    expected = chameleon.encode(Prompt("s", IMAGE_TEXT, theirs))
    assert torch.equal(got.inputs["pixel_values"], expected.inputs["pixel_values"])


def test_batches_hold_each_sample_once_and_never_mix_shapes(model: Model) -> None:
    texts = [IMAGE_TEXT, TEXT, TEXT_IMAGE, "this", "<image> a", "<image> this is a one", TEXT]
    encoded = [model.encode(prompt) for prompt in tiny.prompts(texts)]
    batches = model.batches(encoded, 2)
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert batches == model.batches(encoded, 2)
    assert max(map(len, batches)) <= 2
    for batch in batches:
        assert len({"pixel_values" in encoded[i].inputs for i in batch}) == 1
    lengths = [encoded[i].length for batch in batches for i in batch if "pixel_values" in encoded[i].inputs]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("left", [False, True])
def test_collate(model: Model, left: bool) -> None:
    encoded = [model.encode(prompt) for prompt in tiny.prompts()]
    batch = model.collate(encoded, left=left)
    short, long = (sample.length for sample in encoded)
    assert batch.n_slots == long
    assert batch.offset.tolist() == ([long - short, 0] if left else [0, 0])
    for i, sample in enumerate(encoded):
        slots = batch.offset[i] + np.arange(sample.length)
        assert torch.equal(batch.inputs["input_ids"][i, slots], sample.inputs["input_ids"][0])
        if left:  # on the right, those that the model makes itself are the same
            assert torch.equal(batch.inputs["position_ids"][i, slots], torch.arange(sample.length))
        assert batch.inputs["attention_mask"][i].sum() == sample.length
    assert ("position_ids" in batch.inputs) is left


def test_learned_positions_and_other_names() -> None:
    """GPT-2 calls its parts differently."""
    words = tiny.tokenizer([])
    config = GPT2Config(vocab_size=len(words), n_embd=32, n_layer=2, n_head=2, n_positions=64)
    model = Model(GPT2LMHeadModel(config), words)
    assert (model.n_layers, model.d_model, model.n_heads) == (2, 32, 2)
    assert encode(model, TEXT).layout.text.tolist() == [1, 2, 3, 4]


def test_unknown_parts() -> None:
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(LoadError, match="T5ForConditionalGeneration is an encoder with a decoder: what the decoder"):
        Model(T5ForConditionalGeneration(config), tiny.tokenizer([]))


_, MINOR, MICRO = torch.__version__.partition("+")[0].split(".")
FITTING = f"torchvision==0.{int(MINOR) + 15}.{MICRO}"
NEED_TORCHVISION = pytest.mark.skipif(is_torchvision_available(), reason="torchvision is there")


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if model.family in ("llava_onevision", "pixtral") and not is_torchvision_available():
        pytest.skip("its processor needs torchvision")
    path = tmp_path_factory.mktemp(model.family)
    tiny.save(model, path)
    return path


@NEED_TORCHVISION
@pytest.mark.parametrize("name", ["llava_onevision", "pixtral"])
def test_torchvision_is_missing(name: str, tmp_path: Path) -> None:
    tiny.save(tiny.model(name), tmp_path)
    with pytest.raises(LoadError, match=f"its processor needs torchvision: .*{re.escape(FITTING)}"):
        load(str(tmp_path))
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(LoadError, match="its processor needs torchvision"):  # before anything is looked for
        load(str(tmp_path))


def alike(x: torch.Tensor, y: torch.Tensor) -> bool:
    """To the bit; where torchvision is, it scales the pictures of a loaded processor, and rounds otherwise."""
    return torch.allclose(x, y, atol=1e-2) if is_torchvision_available() else torch.equal(x, y)


def test_load(model: Model, folder: Path) -> None:
    loaded = load(str(folder), dtype="float32")
    assert (loaded.family, loaded.facts()) == (model.family, model.facts())
    assert loaded.vocabulary() == model.vocabulary()
    batches = [m.collate([encode(m, IMAGE_TEXT)]) for m in (model, loaded)]
    assert alike(model(batches[0]).logits, loaded(batches[1]).logits)
    assert load(str(folder)).dtype == torch.bfloat16
    blocked = always_blocked(load(str(folder), attention="eager"), [{"queries": "text", "keys": "image"}])
    assert blocked.facts()["blocked"] == ["text -> image, all layers"]
    assert blocked.facts()["attention"] == "eager"


def test_load_by_a_device_map(model: Model, folder: Path) -> None:
    pytest.importorskip("accelerate")
    spread = load(str(folder), dtype="float32", device_map={"": "cpu"})
    batches = [m.collate([encode(m, IMAGE_TEXT)]) for m in (model, spread)]
    assert alike(model(batches[0]).logits, spread(batches[1]).logits)


def test_weights_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    file = next(path for path in (tmp_path / "model").rglob("model.safetensors") if "vision" not in path.parts)
    weights = load_file(file)
    name = next(name for name in weights if "layers.1.self_attn.q_proj.weight" in name and "vision" not in name)
    save_file({k: v for k, v in weights.items() if k != name}, file, {"format": "pt"})
    with pytest.raises(LoadError, match=r"1 weights that .* needs are missing, such as .*layers.1.self_attn.q_proj"):
        load(str(tmp_path / "model"))
    save_file({**weights, name: weights[name][:, :8].contiguous()}, file, {"format": "pt"})
    with pytest.raises(LoadError, match=r"1 weights that .* needs are mismatched, such as .*layers.1.self_attn.q_proj"):
        load(str(tmp_path / "model"))
    file.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(LoadError, match="weights that are no safetensors"):
        load(str(tmp_path / "model"))
    file.unlink()
    with pytest.raises(LoadError, match="is no whole checkpoint: .* no file named model.safetensors"):
        load(str(tmp_path / "model"))


def test_a_checkpoint_without_processor(tmp_path: Path) -> None:
    """Transformers would give the tokenizer alone, and no image would ever be seen."""
    model = tiny.model("llava_gemma")
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"a tokenizer alone: processor_config.json .* missing|is no whole checkpoint"):
        load(str(tmp_path))


def test_a_checkpoint_without_image_token() -> None:
    module, processor = tiny.chameleon()
    module.config.image_token_id = None
    with pytest.raises(LoadError, match="this ChameleonForConditionalGeneration names no image token"):
        Model(module, processor)
    generic = Model(module, processor, family="generic")
    assert "image" in generic.facts()["not_found"]
    with pytest.raises(SampleError, match="a model without image token"):
        encode(generic, IMAGE_TEXT)


@pytest.mark.parametrize("name", ["chameleon", "emu3", "janus", "llava_onevision", "pixtral", "clip_gemma"])
def test_an_image_token_that_is_missing_somewhere(name: str) -> None:
    module, processor = tiny.SYSTEMS[name]()
    known = getattr(module.config, "vocabulary_map", None)
    if known:
        marker = Model(module, processor).kind.marker(Model(module, processor))
        token = known.pop(marker)
        with pytest.raises(LoadError, match=f"vocabulary_map of this {type(module).__name__}'s .* lacks .*{marker}"):
            Model(module, processor)
        known[marker] = token
    for key in ("image_token_id", "image_token_index"):
        if hasattr(module.config, key):
            setattr(module.config, key, 5)
    with pytest.raises(LoadError, match=r"is token \d+ of the tokenizer and 5 of the configuration"):
        Model(module, processor)


@pytest.mark.parametrize(
    ("name", "wrong"), [("emu3", "chameleon"), ("emu3", "janus"), ("chameleon", "pixtral"), ("llama", "clip_gemma")]
)
def test_a_family_that_is_another_models(name: str, wrong: str, tmp_path: Path) -> None:
    model = tiny.model(name)
    tiny.save(model, tmp_path)
    with pytest.raises(LoadError, match=f"family '{wrong}' is for .*leave the family out, which is then"):
        load(str(tmp_path), family=wrong)
    assert load(str(tmp_path), family="generic", dtype="float32").family == "generic"


def test_load_errors(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"no model at .*nowhere'; it is neither a folder nor on the hub"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(LoadError, match=r"no model at 'nobody/nothing'.* hf download nobody/nothing --local-dir"):
        load("nobody/nothing")
    with pytest.raises(LoadError, match="'bfloat61' is no number type of a model; did you mean 'bfloat16'"):
        load(str(tmp_path), dtype="bfloat61")
    (tmp_path / "config.json").write_text('{"model_type": "novelty", "architectures": ["NoveltyModel"]}')
    with pytest.raises(LoadError, match="model type `novelty`"):
        load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')
    with pytest.raises(LoadError, match="ViT is neither an image-text nor a causal language model .* a family of its"):
        load(str(tmp_path))
    with pytest.raises(LoadError, match=r"no family is called 'camelion'.*chameleon"):
        Model(*tiny.llama(), family="camelion")


@pytest.mark.parametrize(("name", "hint"), [("digits-fusoin", "did you mean 'digits-fusion'? It"), ("nobody/x", "it")])
def test_nobody_waits_for_a_hub_that_cannot_be_reached(name, hint, monkeypatch, capfd) -> None:
    """One line, and none of the hub's own that say it is tried again and again."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(hub, "getproxies", dict)
    with pytest.raises(LoadError) as caught:
        load(name)
    assert str(caught.value).startswith(f"no model at '{name}'; {hint} is neither a folder nor on the hub or in")
    assert f"hf download {name} --local-dir FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(hub, "_reachable", lambda _: True)  # the control: where it can be reached it is asked
    with hub.unless_out_of_reach():
        assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(device: str, tmp_path: Path) -> None:
    tiny.save(tiny.model("chameleon"), tmp_path)
    with pytest.raises(LoadError, match=f"no device '{device}' here: .*; use cpu, cuda, cuda:1 or auto"):
        load(str(tmp_path), device=device)
