"""The adapter that comes out: which of its weights learn, between which models, and what it then knows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

import tiny
import trainings
from actstore_extract.families import LoadError, Prompt, load
from actstore_extract.families.adapter import read_adapter
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.samples.digits import scans
from actstore_extract.training import recipe
from actstore_extract.training.adapter import learner
from actstore_extract.training.conversations import Conversation
from actstore_extract.training.loss import losses
from actstore_extract.training.program import train_adapter


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
    learned = learner(trainings.adapter_recipe(made), trainings.CPU)  # what was extracted is what was learned
    learned.model.module.model.multi_modal_projector.adapter.linear.load_state_dict(linear.state_dict())
    same_again = learned.model(learned.model.collate([encoded])).logits
    torch.testing.assert_close(model(model.collate([encoded])).logits, same_again, atol=1e-5, rtol=0)
    facts = model.facts()["adapter"]
    assert facts["scale"] == "1"
    assert facts["vision"] == f"{made}/vision"
    assert facts["steps"] == "6"
    assert json.loads(facts["recipe"])["training"]["learning_rate"] == 1e-2
    assert len(facts["language_sha256"]) == len(facts["vision_digest"]) == 64


def test_only_the_adapter_learns_in_float32_between_models_of_16_bits(folder):
    tuned = learner(trainings.adapter_recipe(folder, "model.dtype=bfloat16"), trainings.CPU)
    module = tuned.model.module
    assert {name for name, weight in module.named_parameters() if weight.requires_grad} == {
        "model.multi_modal_projector.adapter.linear.weight",
        "model.multi_modal_projector.adapter.linear.bias",
    }
    assert {weight.dtype for weight in tuned.weights.values()} == {torch.float32}
    assert {weight.dtype for weight in module.parameters() if not weight.requires_grad} == {torch.bfloat16}
    example = tuned.encode(Conversation("1", trainings.turns("<image> this", "seven"), "x"), tiny.image())
    losses(tuned.model, [example]).sum().backward()
    assert {weight.grad.dtype for weight in tuned.weights.values()} == {torch.float32}


def test_other_models_are_refused(folder, tmp_path):
    train_adapter(trainings.adapter_recipe(folder, "training.epochs=1"), tmp_path / "out", device="cpu")
    language = LlamaForCausalLM(LlamaConfig(**tiny.text_config(trainings.words())))
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
    words = trainings.words()
    tiny.spread(LlamaForCausalLM(LlamaConfig(**tiny.text_config(words)))).save_pretrained(folder / "language")
    train_adapter(trainings.adapter_recipe(folder, "training.epochs=1"), tmp_path / "out", device="cpu")
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
    second = trainings.adapter_recipe(folder, f"model.adapter={out}", "training.learning_rate=1e-12")
    train_adapter(second, tmp_path / "second", device="cpu")
    torch.testing.assert_close(
        trainings.weights(tmp_path / "second")["weight"], trainings.weights(out)["weight"], atol=1e-7, rtol=0
    )
    with pytest.raises(LoadError, match=r"reads layer -1 of the tower; set model.feature_layer to it"):
        learner(trainings.adapter_recipe(folder, f"model.adapter={out}", "model.feature_layer=-2"), trainings.CPU)
    LlamaForCausalLM(LlamaConfig(**tiny.text_config(trainings.words()))).save_pretrained(folder / "language")
    with pytest.raises(LoadError, match="the adapter was trained with another language model"):
        learner(trainings.adapter_recipe(folder, f"model.adapter={out}"), trainings.CPU)


@pytest.mark.parametrize(("layer", "known"), [(-9, False), (-4, False), (-3, True), (2, True), (3, False)])
def test_layers_that_the_tower_does_not_have(folder, layer, known):
    made = trainings.adapter_recipe(folder, f"model.feature_layer={layer}")
    if known:
        learner(made, trainings.CPU)
        return
    with pytest.raises(LoadError, match=f"model.feature_layer {layer}: the hidden states of .*vision are -3 to 2"):
        learner(made, trainings.CPU)


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
