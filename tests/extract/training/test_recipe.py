"""Recipes of trainings: mistakes in them, and those that ship."""

import pytest

import trainings
from actstore_extract.recipe.sections import RecipeError
from actstore_extract.training import needs, recipe


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
        trainings.adapter_recipe(folder, change)


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


def test_what_a_training_needs():
    """By hand: 2 bytes of 8.5e9 weights, 16 of those learned, of 4 x (1024 + 1024) tokens 34 in each of 32 layers of
    4096, of 4 x 1024 words 10 for each logit."""
    gb = needs.gpu_gb(recipe.load("emu3-lora", recipe.LoraRecipe))
    expected = 2 * 8.5 + 16 * 0.17 + (8192 * 34 * 32 * 4096 + 4096 * 10 * 184_622) / 1e9
    assert gb == pytest.approx(expected)
    rank, width, keys, inner = 64, 4096, 1024, 14_336
    learned = 32 * rank * (2 * 2 * width + 2 * (width + keys) + 3 * (width + inner))
    assert recipe.load("emu3-lora", recipe.LoraRecipe).facts.learned == pytest.approx(learned, rel=0.02)
