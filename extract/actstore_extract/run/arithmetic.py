"""Arithmetic: what a run would need, from the recipe and the model's configuration, without weights and data."""

import re
from math import prod
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from actstore_extract.families import Model, Prompt
from actstore_extract.families.adapter import Adapter, read_adapter
from actstore_extract.families.image_settings import change
from actstore_extract.families.loading import sources
from actstore_extract.families.parts import read_parts
from actstore_extract.families.pretrained import explained, quiet
from actstore_extract.families.registry import family_of
from actstore_extract.families.sample import MARKER
from actstore_extract.recipe.needs import Facts, Needs, needs, published
from actstore_extract.recipe.prompts import ALL
from actstore_extract.recipe.recipe import Recipe, RecipeError
from actstore_extract.run.encoder import chat_of
from actstore_extract.samples.synsets import CHOICES
from actstore_extract.shipped import located

__all__ = ["arithmetic"]

SIZE = (640, 480)  # of an image that the recipe does not resize: most of COCO's
CAPTION, ELSE = 60, 12  # words that {captions} counts as, and any other column of the samples
_COLUMN = re.compile(r"\{(\w+)(\[\d+\])?\}")


class Sizes(NamedTuple):
    """Of a model: its decoder's configuration, its weights, and the tokens of an image and of a prompt's text."""

    text: PretrainedConfig
    parameters: int
    image_tokens: int
    text_tokens: int


def arithmetic(recipe: Recipe) -> tuple[Facts, Needs]:
    """The sizes that count, and what they come to.

    Of a recipe as it ships they are those published of its model; of any other those of the model's configuration and
    processor, in its folder or on the hub. A column of the samples counts as 12 words of the prompt, {captions} as 60;
    an image that is not resized as one of 640 x 480. RecipeError where nothing says how many samples there are,
    LoadError for a model without configuration.
    """
    facts = published(recipe) or _of_configuration(recipe)
    found = needs(recipe, facts)
    assert found is not None
    return facts, found


def _of_configuration(recipe: Recipe) -> Facts:
    samples, path = _samples(recipe), located(recipe.model.path)
    own, *parts = sources(path, recipe.model.revision).values()
    with quiet(), explained(path), torch.device("meta"):
        found = _of_halves(recipe, _adapter(path), *parts) if len(parts) > 1 else _of_whole(recipe, *(parts or [own]))
    heads = int(found.text.num_attention_heads)
    head = int(getattr(found.text, "head_dim", None) or found.text.hidden_size // heads)
    return Facts(
        parameters=found.parameters,
        layers=int(found.text.num_hidden_layers),
        width=int(found.text.hidden_size),
        kv_width=head * int(getattr(found.text, "num_key_value_heads", None) or heads),
        heads=heads,
        image_tokens=found.image_tokens,
        samples=samples,
        text_tokens=found.text_tokens,
    )


def _of_whole(recipe: Recipe, source: tuple[str, str | None]) -> Sizes:
    """Of a model that is one checkpoint: a sample is encoded, as a run does it, for a model without weights."""
    config, where = _config(recipe, *source)
    kind = family_of((config.architectures or [""])[0], config, recipe.model.family)
    module = _without_weights(kind.auto_class(config), config)
    with torch.device("cpu"):
        processor = AutoProcessor.from_pretrained(source[0], **where)  # type: ignore[no-untyped-call]
        taken = change(processor, recipe.model.processor)
        model = Model(module, processor, family=kind.name, settings=taken)
        text, chat = _text(recipe), chat_of(recipe.prompt)
        n = sum(one.count(MARKER) for one in (text, *(said for _, said in recipe.prompt.before())))
        asked = Prompt("arithmetic", text, (Image.new("RGB", _size(recipe)),) * n)
        layout = model.encode(asked if chat is None else chat.prompt(model, asked)).layout
    return Sizes(model.decoder.config, _parameters(module), len(layout.image) + len(layout.eol), len(layout.text))


def _of_halves(
    recipe: Recipe, adapter: Adapter, vision: tuple[str, str | None], language: tuple[str, str | None]
) -> Sizes:
    """Of a vision tower in front of a language model, with an adapter between them."""
    config, _ = _config(recipe, *vision)
    tower = getattr(config, "vision_config", config)
    text, where = _config(recipe, *language)
    kind = family_of("", text)
    weights = [_without_weights(AutoModel, tower), _without_weights(kind.auto_class(text), text)]
    words = AutoTokenizer.from_pretrained(language[0], **where)
    n_text = len(words(_text(recipe).replace(MARKER, ""), add_special_tokens=False).input_ids)
    n_image = prod(side // (tower.patch_size * adapter.pool) for side in _pixels(recipe, adapter, vision))
    return Sizes(text, sum(map(_parameters, weights)), n_image, n_text)


def _pixels(recipe: Recipe, adapter: Adapter, vision: tuple[str, str | None]) -> tuple[int, int]:
    """Height and width of a picture as the tower's processor gives it, set as the adapter and the recipe have it."""
    path, where = vision[0], {"revision": vision[1], "trust_remote_code": False}
    with torch.device("cpu"):
        images = AutoImageProcessor.from_pretrained(path, **where)  # type: ignore[no-untyped-call]
        picture, settings = Image.new("RGB", _size(recipe)), {**adapter.processor, **recipe.model.processor}
        height, width = images(picture, **settings, return_tensors="pt").pixel_values.shape[-2:]
    return height, width


def _size(recipe: Recipe) -> tuple[int, int]:
    """Width and height of a picture as the samples have it."""
    return (recipe.samples.resize,) * 2 if recipe.samples.resize else SIZE


def _adapter(path: str) -> Adapter:
    parts = read_parts(path)
    assert parts is not None
    with torch.device("cpu"):
        return read_adapter(parts.path("adapter"), scale=parts.entries.get("scale"))


def _config(recipe: Recipe, path: str, revision: str | None) -> tuple[PretrainedConfig, dict[str, Any]]:
    where = {"revision": revision, "trust_remote_code": recipe.model.remote_code}
    return AutoConfig.from_pretrained(path, **where), where


def _without_weights(auto: Any, config: PretrainedConfig) -> PreTrainedModel:
    return cast(PreTrainedModel, auto.from_config(config))


def _parameters(module: PreTrainedModel) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _text(recipe: Recipe) -> str:
    """The prompt with words in the place of the samples' columns: the first that has an image."""
    asked = recipe.prompt.text or "{prompt}"
    texts = list(asked.values()) if isinstance(asked, dict) else [asked]
    text = next((one for one in texts if MARKER in one), texts[0])
    if ALL in text:
        raise RecipeError(
            f"nothing but the data says how many pictures {ALL} is: write {MARKER} so often, for the arithmetic"
        )
    return _COLUMN.sub(lambda found: " ".join(["word"] * (CAPTION if found[1] == "captions" else ELSE)), text)


def _samples(recipe: Recipe) -> int:
    """How many, as far as the recipe says it without its data."""
    section: Any = recipe.samples
    if section.source == "digits":  # its data ship
        return int(section.samples().table.height)
    classes, each = getattr(section, "classes", None), getattr(section, "per_class", None)
    counts = [section.limit] if section.limit else []
    if classes and each:
        counts.append(each * len(CHOICES[classes]() if isinstance(classes, str) else classes))
    if not counts:
        raise RecipeError("nothing but the data says how many samples there are: say --limit N for the arithmetic")
    return int(min(counts))
