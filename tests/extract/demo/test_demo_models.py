"""The shipped models: they load by from_pretrained alone, and score what their cards say."""

import json
from pathlib import Path

import numpy as np
import pytest

from actstore_extract.samples.digits import scans
from actstore_extract.shipped import MODELS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("sklearn")

AT_LEAST = {"digits-fusion": 0.90, "digits-mapped": 0.80, "digits-gated": 0.90}
TOLERANCE = 0.02
SAE_LENS_WARNS = "ignore:The 'utils' module has been deprecated:DeprecationWarning"


def card(name: str) -> dict:
    return json.loads((MODELS[name] / "card.json").read_text())


def test_split_is_the_same_everywhere():
    digits = scans()
    assert [len(digits.indices(split)) for split in ("train", "validation", "test")] == [1148, 200, 449]
    assert sorted(np.concatenate([digits.indices(split) for split in np.unique(digits.split)])) == list(range(1797))
    assert digits.indices("test")[:8].tolist() == [2, 4, 5, 6, 9, 14, 17, 18]
    assert digits.indices("validation")[:8].tolist() == [1, 8, 29, 35, 40, 42, 48, 55]


def test_a_scan_as_picture():
    digits = scans()
    picture = np.asarray(digits.image(0))
    assert picture.shape == (8, 8, 3)
    assert picture[0, 2].tolist() == [80, 80, 80]  # 5 of 16
    assert digits.words[digits.labels[0]] == "zero"
    assert digits.pixels.max() == 16
    with pytest.raises(ValueError, match="read-only"):
        digits.pixels[0, 0, 0] = 1


def test_pixels_seen_in_training_are_those_of_the_processor():
    from actstore_extract.demo.copies import pixel_values

    digits = scans()
    for folder in MODELS.values():
        processor = transformers.AutoProcessor.from_pretrained(folder)
        seen = processor.image_processor([digits.image(i) for i in range(50)], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(seen, pixel_values(digits.pixels[:50]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_names_the_digit(name: str):
    from actstore_extract.demo.naming import accuracy

    digits = scans()
    value = accuracy(MODELS[name], digits, digits.indices("test"))
    assert value >= AT_LEAST[name]
    assert value == pytest.approx(card(name)["accuracy"]["float32"]["test"]["value"], abs=TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_names_the_digit_in_bfloat16(name: str):
    from actstore_extract.demo.naming import accuracy

    digits = scans()
    value = accuracy(MODELS[name], digits, digits.indices("validation"), dtype="bfloat16")
    assert value == pytest.approx(card(name)["accuracy"]["bfloat16"]["validation"]["value"], abs=0.05)


def test_the_gate_is_the_only_way():
    """With the end of image cut off too, the gated model says the same of every scan."""
    from actstore_extract.demo.fusion import gate

    digits, folder = scans(), MODELS["digits-gated"]
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
    processor = transformers.AutoProcessor.from_pretrained(folder)
    images = [digits.image(i) for i in range(20)]
    prompts = [card("digits-gated")["prompt"]] * len(images)
    inputs = processor(text=prompts, images=images, return_for_text_completion=True, return_tensors="pt")
    end = inputs["input_ids"][0].tolist().index(processor.image_end_token_id)
    mask = gate(inputs["input_ids"].shape[1], [end + 1] * len(images))
    open_gate = model(**{**inputs, "attention_mask": mask}).logits[:, -1]
    mask[:, :, end + 1 :, end] = torch.finfo(torch.float32).min
    shut_gate = model(**{**inputs, "attention_mask": mask}).logits[:, -1]
    assert len(open_gate.argmax(1).unique()) > 5
    assert len(shut_gate.argmax(1).unique()) == 1


def test_layouts():
    digits = scans()
    fusion = transformers.AutoProcessor.from_pretrained(MODELS["digits-fusion"])
    ids = fusion(text="<image>this digit is a", images=digits.image(0), return_for_text_completion=True)["input_ids"]
    words = fusion.tokenizer.convert_ids_to_tokens(ids[0])
    assert words == ["<s>", "<racm3:break>", *["<image>"] * 16, "<eoss>", "this", "digit", "is", "a"]
    mapped = transformers.AutoProcessor.from_pretrained(MODELS["digits-mapped"])
    ids = mapped(text="<image> : this digit is a", images=digits.image(0))["input_ids"]
    words = mapped.tokenizer.convert_ids_to_tokens(ids[0])
    assert words == ["<s>", *["<image>"] * 16, ":", "this", "digit", "is", "a"]


def test_folders_are_small():
    files = [file for folder in MODELS.values() for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4_000_000


def test_untrained_adapter_fits():
    from safetensors.torch import load_file

    folder = MODELS["digits-mapped"]
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
    trained = model.model.multi_modal_projector.linear_1.weight.clone()
    missing, unexpected = model.load_state_dict(load_file(folder / "untrained_adapter.safetensors"), strict=False)
    assert not unexpected
    assert not any("multi_modal_projector" in key for key in missing)
    assert not torch.equal(trained, model.model.multi_modal_projector.linear_1.weight)


@pytest.mark.filterwarnings(SAE_LENS_WARNS)
def test_autoencoders_rebuild_text():
    sae_lens = pytest.importorskip("sae_lens")

    from actstore_extract.demo.corpus import captions_of
    from actstore_extract.demo.language import LanguageRecipe, texts
    from actstore_extract.demo.saes import residuals, text_scores

    folder = MODELS["digits-mapped"]
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    captions, ids = captions_of(scans(), "test", tokenizer), tokenizer.get_vocab()
    read = texts(LanguageRecipe(), captions, ids, n=200, rng=np.random.default_rng(1))
    layers = residuals(model.model.language_model, read)
    assert len(layers) == 9
    for layer, x in enumerate(layers):
        scores = text_scores(sae_lens.SAE.load_from_disk(folder / "saes" / f"layer-{layer}"), x)
        assert scores["fvu"] < 0.05, layer
        assert 4 < scores["l0"] < 14, layer


@pytest.mark.slow
@pytest.mark.filterwarnings(SAE_LENS_WARNS)
@pytest.mark.parametrize("name", MODELS)
def test_training_program(name: str, tmp_path: Path):
    pytest.importorskip("sae_lens")
    from actstore_extract.demo.train import main

    main([str(tmp_path), "--only", name, "--steps-scale", "0.01"])
    written = json.loads((tmp_path / name / "card.json").read_text())
    assert written["accuracy"]["float32"]["test"]["n"] == 449
    shipped = {file.relative_to(MODELS[name]) for file in MODELS[name].rglob("*") if file.is_file()}
    assert shipped == {file.relative_to(tmp_path / name) for file in (tmp_path / name).rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_gate_is_seen_where_one_was_built_in_and_only_there():
    from actstore_extract.demo.knockouts import knockouts

    digits = scans()
    held_out = digits.indices("test")
    free = knockouts(MODELS["digits-fusion"], digits, held_out)
    assert free["text -> eoi"] > free["none"] - 0.03  # a null: nothing passes through the end-of-image token alone
    assert free["text -> image"] < 0.2
    gated = knockouts(MODELS["digits-gated"], digits, held_out)
    assert gated["text -> image"] > 0.9
    assert gated["text -> image, eoi"] < 0.2
    assert card("digits-gated")["accuracy_while_blocked"] == pytest.approx(gated, abs=TOLERANCE)
