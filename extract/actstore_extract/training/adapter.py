"""Adapter training: one linear map learns to say what a frozen tower sees in vectors a frozen language model reads."""

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from actstore.storage import local
from actstore_extract.families import LoadError, Model
from actstore_extract.families.adapter import Adapter, digest, read_adapter, write_adapter
from actstore_extract.families.clip_gemma import assemble, processor
from actstore_extract.families.halves import language_model, vision_tower
from actstore_extract.families.pretrained import DTYPES, quiet
from actstore_extract.interventions.blocks import always_blocked
from actstore_extract.run.fingerprint import fingerprint
from actstore_extract.run.settings import settings
from actstore_extract.shipped import located
from actstore_extract.training.examples import Encoder
from actstore_extract.training.loop import Done, Learner
from actstore_extract.training.recipe import AdapterModel, AdapterRecipe
from actstore_extract.training.tower import Remembering

__all__ = ["ADAPTER", "drawn", "learner", "write", "written"]

ADAPTER, PARTS = "adapter.safetensors", "parts.toml"


class _InFloat32(nn.Module):
    """An adapter in float32 between models of 16 bits: it learns steps that those could not hold."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Vectors in the dtype of the features."""
        x: torch.Tensor = self.adapter(features.float())
        return x.to(features.dtype)


def learner(recipe: AdapterRecipe, device: torch.device) -> Learner:
    """The frozen models with the adapter between them, which alone learns."""
    section, dtype = recipe.model, DTYPES[recipe.model.dtype]
    with quiet():
        vision, images = vision_tower(*_named(section.vision), dtype)
        language, words = language_model(*_named(section.language), dtype=dtype)
    if section.image_token not in words.get_vocab():
        raise LoadError(f"{section.language} has no token {section.image_token!r}: set model.image_token to one it has")
    n_layers = vision.config.num_hidden_layers
    if not -n_layers - 1 <= section.feature_layer <= n_layers:
        raise LoadError(
            f"model.feature_layer {section.feature_layer}: the hidden states of {section.vision} are "
            f"{-n_layers - 1} to {n_layers}"
        )
    adapter = _first(section, vision, language, recipe.seed)
    adapter = Adapter(adapter.linear, adapter.scale, adapter.facts | _read_as(section))
    facts = _facts(section, vision, language, adapter)
    token = cast(int, words.convert_tokens_to_ids(section.image_token))
    module = assemble(vision, language, deepcopy(adapter), token).requires_grad_(False)
    images_and_words = processor(images, words, module, section.image_token)
    learns = adapter.requires_grad_(True)
    module.model.multi_modal_projector = _InFloat32(learns)
    module.to(device)  # type: ignore[arg-type]
    own = Model(module, images_and_words, family="clip_gemma")
    if recipe.training.epochs > 1:
        module.model.vision_tower = Remembering(vision, section.feature_layer)
    model = always_blocked(own, section.blocked)
    weights = dict(learns.linear.named_parameters())
    words.chat_template = section.chat_template or words.chat_template
    encode = Encoder(model, recipe.training.max_length, image_first=True)
    return Learner(model, weights, encode, facts, _settings(section))


def write(recipe: AdapterRecipe, trained: Learner, done: Done, out: Path) -> None:
    """`adapter.safetensors`, with all that is known of it, and `parts.toml`: `out` is a model to extract from."""
    projector = cast(_InFloat32, trained.model.module.model.multi_modal_projector)
    adapter = projector.adapter
    losses = [row.loss for row in done.log if row.loss is not None]
    facts = {
        **trained.facts,
        **_read_as(recipe.model),
        "recipe": json.dumps(recipe.record()),
        "recipe_name": recipe.name,
        "steps": done.steps,
        "last_loss": losses[-1] if losses else "none",
    }
    kept = Adapter(deepcopy(adapter.linear).cpu(), adapter.scale, {name: str(value) for name, value in facts.items()})
    draft = local.draft_of(out / ADAPTER)
    try:
        write_adapter(draft, kept)
        local.replace(out / ADAPTER, draft)
    finally:
        local.discard(draft)
    entries = {
        "family": "clip_gemma",
        "vision": _entry(recipe.model.vision, out),
        "language": _entry(recipe.model.language, out),
        "adapter": ADAPTER,
        "image_token": recipe.model.image_token,
    }
    (out / PARTS).write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in entries.items()))


def written(out: Path) -> bool:
    """Whether a finished training has left all that `write` writes."""
    return (out / ADAPTER).is_file() and (out / PARTS).is_file()


def _named(name: str) -> tuple[str, str | None]:
    """The folder, or the name on the hub with its revision."""
    path, _, revision = name.partition("@")
    return (name, None) if Path(name).is_dir() else (located(path), revision or None)


def _entry(name: str, out: Path) -> str:
    """A part as the parts file names it: a folder seen from there, so that both can be moved together."""
    return os.path.relpath(name, out) if Path(name).is_dir() else name


def _facts(section: AdapterModel, vision: PreTrainedModel, language: PreTrainedModel, first: Adapter) -> dict[str, str]:
    """Which models the adapter is between, and which it begins with, by the hashes of their weights."""
    facts: dict[str, str] = {}
    for name, path, module in (
        ("vision", section.vision, vision),
        ("language", section.language, language.get_decoder()),  # type: ignore[no-untyped-call]
    ):
        facts |= {name: path, f"{name}_sha256": fingerprint(*_named(path))["weights_sha256"]}
        facts[f"{name}_digest"] = digest(module)
    if section.adapter is not None:
        facts["first_digest"] = digest(first.linear)
    return facts


def _settings(section: AdapterModel) -> dict[str, object]:
    """How both models are set up, by part, file and key."""
    parts = {"vision": section.vision, "language": section.language}
    return {f"{part}/{key}": value for part, path in parts.items() for key, value in settings(*_named(path)).items()}


def _read_as(section: AdapterModel) -> dict[str, str]:
    """What extraction has to do as the training did."""
    processor = json.dumps(section.processor, sort_keys=True)
    read = {"feature_layer": section.feature_layer, "inject": section.inject, "pool": section.pool}
    return {**{name: str(value) for name, value in read.items()}, "processor": processor}


def _first(section: AdapterModel, vision: PreTrainedModel, language: PreTrainedModel, seed: int) -> Adapter:
    """The adapter to begin with, in float32: one that was trained before, or one that is drawn."""
    if section.adapter is not None:
        path = section.adapter / ADAPTER if section.adapter.is_dir() else section.adapter
        before = read_adapter(path)
        layer = before.facts.get("feature_layer", "-1")
        if layer != str(section.feature_layer):
            raise LoadError(f"{path} reads layer {layer} of the tower; set model.feature_layer to it")
        if (inject := before.facts.get("inject", "0")) != str(section.inject):
            raise LoadError(f"{path} puts the image in at layer {inject}; set model.inject to it")
        if before.processor != section.processor:
            raise LoadError(f"{path} had pictures processed with {before.processor}; set model.processor to it")
        if before.pool != section.pool:
            raise LoadError(f"{path} takes {before.pool} x {before.pool} patches together; set model.pool to it")
        if section.ridge is not None:
            raise LoadError(f"model.ridge begins a new adapter, and model.adapter goes on with {path}: leave one out")
        return before.float()
    return drawn(vision.config.hidden_size, language.config.hidden_size, seed)


def drawn(d_vision: int, d_model: int, seed: int) -> Adapter:
    """The adapter that a training with this seed begins with, in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Adapter(nn.Linear(d_vision, d_model), "1")
