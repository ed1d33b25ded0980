"""Janus: its processor pads on the left and may speak first; neither changes what a position is."""

import pytest
import torch

import tiny
from actstore_extract.families import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model("janus")


def test_layout(model: Model) -> None:
    layout = model.encode(tiny.prompts(["<image> this digit is a"])[0]).layout
    words = [model.vocabulary()[i] for i in layout.token_ids]
    assert (words[1], words[18]) == ("<begin_of_image>", "<end_of_image>")
    assert (layout.boi, layout.eoi, layout.image.tolist()) == (1, 18, list(range(2, 18)))
    assert model.facts()["eoi"] == ["<end_of_image>"]


def test_samples_are_encoded_without_padding(model: Model) -> None:
    """The processor itself would pad the shorter of two on the left."""
    prompts = tiny.prompts()
    texts, images = [prompt.text for prompt in prompts], [prompt.image for prompt in prompts]
    theirs = model.processor(text=texts, images=images, padding=True, return_tensors="pt")
    assert theirs["attention_mask"][0, 0] == 0
    encoded = [model.encode(prompt) for prompt in prompts]
    for sample, ids, mask in zip(encoded, theirs["input_ids"], theirs["attention_mask"], strict=True):
        assert torch.equal(sample.inputs["input_ids"][0], ids[mask.bool()])
    assert torch.equal(model.collate(encoded, left=True).inputs["attention_mask"], theirs["attention_mask"])
    assert model.collate(encoded).offset.tolist() == [0, 0]


def test_system_prompt_is_text_before(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.processor, "use_default_system_prompt", True)
    layout = model.encode(tiny.prompts(["<image> this digit is a"])[0]).layout
    assert len(layout.text_before) > 20
    assert [model.vocabulary()[i] for i in layout.token_ids[layout.text]] == ["this", "digit", "is", "a"]
    assert layout.boi == layout.text_before[-1] + 1
