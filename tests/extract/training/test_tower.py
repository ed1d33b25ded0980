"""What stands before the adapter: a tower, the pictures that its processor gives it, and the map to begin with."""

import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

import tiny
import trainings
from actstore_extract.families import LoadError, Prompt, SampleError, load
from actstore_extract.families.adapter import read_adapter
from actstore_extract.recipe.recipe import made as extraction
from actstore_extract.run.arithmetic import arithmetic
from actstore_extract.training import tower
from actstore_extract.training.adapter import learner
from actstore_extract.training.data import gather
from actstore_extract.training.program import train_adapter
from actstore_extract.training.ridge import begin

TWELVE = "model.processor={ size = { shortest_edge = 12 }, crop_size = { height = 12, width = 12 } }"


@pytest.fixture
def dino(folder):
    """The parts with a DINOv2 whose configuration is of 16 pixels, and whose processor gives it 8, as published ones
    are of 518 and 224."""
    shutil.rmtree(folder / "vision")
    torch.manual_seed(2)
    small = {name: value for name, value in tiny.SMALL_VISION.items() if name != "intermediate_size"}
    Dinov2Model(Dinov2Config(image_size=16, patch_size=2, **small)).save_pretrained(folder / "vision")
    sizes = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    BitImageProcessorPil(**sizes).save_pretrained(folder / "vision")
    return folder


def encoded(model):
    return model.encode(Prompt("a", "<image> this digit is a", tiny.image(3)))


def vectors(model):
    """Of a picture's tokens, as block 0 receives them."""
    with torch.no_grad():
        return model.module.model.get_image_features(encoded(model).inputs["pixel_values"]).pooler_output[0]


def states(model):
    """What the tower makes of the patches (n, d)."""
    with torch.no_grad():
        pixels = encoded(model).inputs["pixel_values"]
        return model.module.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1][0, 1:]


def image_tokens(out):
    samples = {"source": "digits"}
    recipe = {"model": {"path": str(out)}, "samples": samples, "prompt": {"text": "<image>"}, "capture": {"roles": []}}
    return arithmetic(extraction({**recipe, "capture": {"roles": ["last"]}}))[0].image_tokens


def test_image_tokens_are_those_of_the_processors_picture(dino, tmp_path):
    train_adapter(trainings.adapter_recipe(dino, "training.epochs=1"), tmp_path / "out", device="cpu")
    model = load(str(tmp_path / "out"), dtype="float32")
    assert encoded(model).layout.image.tolist() == list(range(1, 17))
    torch.testing.assert_close(
        vectors(model), read_adapter(tmp_path / "out" / "adapter.safetensors").linear(states(model))
    )
    assert image_tokens(tmp_path / "out") == 16
    changed = load(str(tmp_path / "out"), dtype="float32", settings={"crop_size": {"height": 6, "width": 8}})
    assert len(encoded(changed).layout.image) == 12


def test_pictures_of_another_size_and_patches_taken_together(dino, tmp_path):
    out = tmp_path / "out"
    train_adapter(trainings.adapter_recipe(dino, "training.epochs=1", TWELVE, "model.pool=3"), out, device="cpu")
    model = load(str(out), dtype="float32")
    assert len(encoded(model).layout.image) == image_tokens(out) == 4
    grid = states(model).numpy().reshape(6, 6, -1)
    means = [grid[row : row + 3, column : column + 3].mean((0, 1)) for row in (0, 3) for column in (0, 3)]
    linear = read_adapter(out / "adapter.safetensors").linear
    torch.testing.assert_close(vectors(model), linear(torch.from_numpy(np.stack(means))))
    assert json.loads(model.facts()["adapter"]["processor"])["crop_size"] == {"height": 12, "width": 12}
    for size in ({"height": 8, "width": 8}, {"height": 12, "width": 6}):
        other = load(str(out), dtype="float32", settings={"crop_size": size})
        with pytest.raises(
            SampleError, match=r"takes 3 x 3 patches together.* set size and crop_size .* multiple of 6"
        ):
            encoded(other)
    with pytest.raises(LoadError, match=r"had pictures processed with .*12.*; set model.processor to it"):
        learner(trainings.adapter_recipe(dino, f"model.adapter={out}", "model.pool=3"), trainings.CPU)
    with pytest.raises(LoadError, match="takes 3 x 3 patches together; set model.pool to it"):
        learner(trainings.adapter_recipe(dino, f"model.adapter={out}", TWELVE), trainings.CPU)
    with pytest.raises(LoadError, match=r"model.ridge begins a new adapter, .*: leave one out"):
        learner(
            trainings.adapter_recipe(dino, f"model.adapter={out}", TWELVE, "model.pool=3", "model.ridge=1"),
            trainings.CPU,
        )


def test_a_frozen_tower_sees_each_picture_once(dino, tmp_path, monkeypatch):
    seen, forward = [], Dinov2Model.forward
    monkeypatch.setattr(
        Dinov2Model,
        "forward",
        lambda self, pixels=None, **others: seen.append(pixels.numpy().tobytes()) or forward(self, pixels, **others),
    )
    made = trainings.adapter_recipe(dino)
    train_adapter(made, tmp_path / "kept", device="cpu")
    assert len(seen) == len(set(seen)) >= 13  # twelve pictures, and the blank one by which patches are counted
    once = len(seen)
    monkeypatch.setattr(tower, "ROOM", 0)
    train_adapter(made, tmp_path / "forgotten", device="cpu")
    assert len(seen) - once >= once + 12  # two epochs
    assert trainings.same(trainings.weights(tmp_path / "kept"), trainings.weights(tmp_path / "forgotten"))


def test_ridge_is_the_regression_from_patches_to_words(dino):
    recipe = trainings.adapter_recipe(dino, "model.ridge=0.5")
    tuned = learner(recipe, trainings.CPU)
    data, _ = gather(recipe.data, images_only=True, skip_bad=False)
    begin(tuned, data, 0.5)
    x, y = [], []
    table = tuned.model.module.get_input_embeddings()
    for number in range(len(data)):
        said, template = data.conversation(number)
        example = tuned.encode(said, data.image(number), template)
        with torch.no_grad():
            pixels = example.encoded.inputs["pixel_values"]
            x.append(
                tuned.model.module.model.vision_tower.tower(pixels, output_hidden_states=True).hidden_states[-1][0, 1:]
            )
            ids = [token for start, stop in example.spans for token in example.encoded.layout.token_ids[start:stop]]
            y.append(table(torch.tensor(ids)).mean(0).expand(16, -1))
    x, y = torch.cat(x).double().numpy(), torch.cat(y).double().numpy()
    alpha = 0.5 * x.var(0).mean() * len(x)
    expected = Ridge(alpha=alpha).fit(x, y)
    found = tuned.weights["weight"].detach().numpy(), tuned.weights["bias"].detach().numpy()
    np.testing.assert_allclose(found[0], expected.coef_, atol=1e-5)
    np.testing.assert_allclose(found[1], expected.intercept_, atol=1e-5)
    errors = [np.abs(x @ w.T + b - y).mean() for w, b in (found, (np.zeros_like(found[0]), y.mean(0)))]
    assert errors[0] < errors[1]


def test_a_training_that_begins_with_ridge_goes_on_from_its_checkpoint(dino, tmp_path):
    made = trainings.adapter_recipe(dino, "model.ridge=0.5", "training.learning_rate=1e-12", "training.epochs=1")
    train_adapter(made, tmp_path / "out", device="cpu")
    tuned = learner(made, trainings.CPU)
    begin(tuned, gather(made.data, images_only=True, skip_bad=False)[0], 0.5)
    torch.testing.assert_close(trainings.weights(tmp_path / "out")["weight"], tuned.weights["weight"].detach())
