"""What a training needs, by arithmetic from the sizes of the published models: before anything is downloaded."""

from actstore_extract.training.recipe import AdapterRecipe, LoraRecipe, TrainingRecipe

__all__ = ["data", "gpu_gb", "weights"]

_KEPT = 17  # numbers a token leaves in each layer for the way back, in widths (Korthikanti et al. 2022, without scores)
_LEARNED = 16  # bytes: weight, gradient and two moments in float32
_LOGIT = 8  # bytes besides the logit itself: in float32, and its gradient


def gpu_gb(recipe: TrainingRecipe) -> float | None:
    """10^9 bytes on each GPU, roughly, when all examples of a micro-batch are as long as they may be; None for models
    that ship.

    >>> from actstore_extract.training.recipe import load
    >>> round(gpu_gb(load("clip-gemma-2-2b-pretrain", TrainingRecipe)))
    29
    """
    facts, how = recipe.facts, recipe.training
    if facts is None:
        return None
    assert isinstance(recipe, AdapterRecipe | LoraRecipe)
    itemsize = 4 if recipe.model.dtype == "float32" else 2
    kept = how.micro_batch * (how.max_length + facts.image_tokens) * facts.layers * facts.width * _KEPT * itemsize
    logits = how.micro_batch * how.max_length * facts.vocabulary * (itemsize + _LOGIT)
    return (itemsize * facts.parameters + _LEARNED * facts.learned + kept + logits) / 1e9


def weights(recipe: TrainingRecipe) -> str:
    """The checkpoints that it starts from."""
    if isinstance(recipe, AdapterRecipe):
        return ", ".join(dict.fromkeys((recipe.model.vision, recipe.model.language)))
    assert isinstance(recipe, LoraRecipe)
    return recipe.model.path


def data(recipe: TrainingRecipe) -> str:
    """Where its sets of examples are expected, or the source of those that need no files."""
    return ", ".join(str(getattr(one.samples, "path", one.samples.source)) for one in recipe.data.values())
