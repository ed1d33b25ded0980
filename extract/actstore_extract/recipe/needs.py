"""What a recipe needs, by arithmetic from the sizes of the published model: before anything is downloaded."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from actstore_extract.interventions.conditions import expand
from actstore_extract.recipe.recipe import Recipe
from actstore_extract.recipe.shelf import shipped
from actstore_extract.roles import Role, parse_role

__all__ = ["Facts", "Needs", "needs", "published"]

_SET = ("source", "resize", "classes")  # of [samples]
_WORKING = 24  # vectors per token that a forward holds at once, roughly: the MLP's and attention's, and their sums


class Facts(NamedTuple):
    """Sizes of a model: `parameters`, `layers` L, `width` d and that of its keys, `heads`; and of an experiment:
    how many `samples`, each asked in each order, with how many tokens of text and of the image, roughly."""

    parameters: float
    layers: int
    width: int
    kv_width: int
    heads: int
    image_tokens: int
    samples: int
    text_tokens: int


class Needs(NamedTuple):
    """Samples in the store, under all conditions, and 10^9 bytes of GPU memory and of the store before compression."""

    samples: int
    gpu_gb: float
    store_gb: float


# Roles of more or less than one vector per sample -> how many.
_ROWS: dict[str, Callable[[Facts, Role], float]] = {
    "all": lambda facts, _: facts.image_tokens + facts.text_tokens,
    "eol": lambda facts, _: facts.image_tokens**0.5,
    "image": lambda facts, _: facts.image_tokens,
    "prefix": lambda facts, _: facts.image_tokens,
    "random-image": lambda _, role: role.n,
    "random-text": lambda _, role: role.n,
    "suffix": lambda facts, _: 1 + facts.text_tokens,
    "text": lambda facts, _: facts.text_tokens,
}


def published(recipe: Recipe) -> Facts | None:
    """The sizes of a recipe that ships, or of a copy of one; of another model, data set, prompt or size of images they
    are not known so: None, as for one whose model ships too.
    """
    found = (one for one in shipped().values() if one.facts and _alike(recipe, one.data))
    own = shipped().get(recipe.name)
    one = own if own is not None and own.facts and _alike(recipe, own.data) else next(found, None)
    return None if one is None else Facts(**one.facts)  # type: ignore[arg-type]  # TOML's numbers are as written


def _alike(recipe: Recipe, data: Mapping[str, Any]) -> bool:
    """Whether it asks the same model the same, of images of the same set and size."""
    samples, prompt = recipe.samples.model_dump(), recipe.prompt
    own = (recipe.model.path, recipe.model.processor, prompt.text, prompt.chat, *(samples.get(one) for one in _SET))
    ships = (data["model"]["path"], data["model"].get("processor", {}), data.get("prompt", {}).get("text"), False)
    return own == (*ships, *(data["samples"].get(one) for one in _SET))


def needs(recipe: Recipe, facts: Facts | None = None) -> Needs | None:
    """What a recipe needs, by the sizes given, else those of one that ships; None where there are none.

    >>> from actstore_extract.recipe.recipe import load
    >>> needs(load("chameleon-7b/overlap")).samples
    10000
    """
    facts = published(recipe) if facts is None else facts
    if facts is None:
        return None
    orders = recipe.prompt.text if isinstance(recipe.prompt.text, dict) else {"image-text": ""}
    samples = min(recipe.samples.limit or facts.samples, facts.samples)
    each = [_kept(recipe, facts._replace(image_tokens=0) if order == "text" else facts) for order in orders]
    conditions = expand(recipe.conditions, n_layers=facts.layers, seed=0).values()
    samples = sum(samples if condition.patch is None else samples // 2 for condition in conditions)  # of pairs, one
    return Needs(samples * len(orders), _gpu(recipe, facts) / 1e9, samples * sum(each) / 1e9)


def _kept(recipe: Recipe, facts: Facts) -> float:
    """Bytes that a sample leaves in the store: vectors, keys and values, and the attention paid by its text."""
    capture = recipe.capture
    rows = sum(_rows(parse_role(role), facts) for role in capture.roles)
    points = facts.layers + 1 if capture.layers == "all" else len(capture.layers)
    itemsize = 4 if (capture.dtype or recipe.model.dtype) == "float32" else 2
    pairs = 2 * sum(_rows(parse_role(role), facts) for role in capture.kv)
    columns = len(capture.attention) * facts.text_tokens * (facts.heads if capture.per_head else 1)
    mass = facts.image_tokens if capture.mass else 0
    blocks = facts.layers if capture.layers == "all" else max(layer % (facts.layers + 1) for layer in capture.layers)
    kv = pairs * blocks * facts.kv_width * itemsize
    return rows * points * facts.width * itemsize + kv + (columns + mass) * points * itemsize


def _rows(role: Role, facts: Facts) -> float:
    """How many vectors a sample has in a role; none of the image's where there is no image."""
    of_text = ("all", "last", "random-text", "text", "text-mean", "word", "words")
    if not facts.image_tokens and role.kind not in of_text:
        return 0
    return _ROWS[role.kind](facts, role) if role.kind in _ROWS else 1


def _gpu(recipe: Recipe, facts: Facts) -> float:
    """Bytes of weights, of a batch on its way through a block, and of its keys and values when it generates."""
    itemsize = 4 if recipe.model.dtype == "float32" else 2
    tokens = recipe.capture.batch_size * (facts.image_tokens + facts.text_tokens)
    cache = 2 * facts.layers * facts.kv_width if recipe.capture.max_new_tokens else 0
    return itemsize * (facts.parameters + tokens * (_WORKING * facts.width + cache))
