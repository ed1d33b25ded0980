"""A tiny model of a kind, saved as a checkpoint: real classes, random weights, its own processor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.import_utils import DummyObject

from actstore_extract.models.kind import Kind
from actstore_extract.models.small import small
from actstore_extract.models.vision import MISSING
from actstore_extract.models.words import tokenizer

__all__ = ["BuildError", "build"]

_MOST_WEIGHTS = 60_000_000
_SEEING = ("vision", "visual", "vq", "qformer", "image", "audio", "perceiver", "connector", "projector", "resampler")
_STD, _SEEING_STD = 0.25, 0.15


class BuildError(Exception):
    """No tiny model of this kind can be made; the message says why."""


def build(kind: Kind, folder: Path) -> None:
    """Save the kind's model and processor in a folder; BuildError when they cannot be made."""
    if kind.unbuilt:
        raise BuildError(kind.unbuilt)
    try:
        words = tokenizer(kind)
        processor = _made(kind.processor, words) if kind.processor else words
        words = getattr(processor, "tokenizer", words)
        model = _model(kind, small(kind.model_type, _with_ids(kind, words), kind.unset))
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    except BuildError:
        raise
    except Exception as error:
        raise BuildError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _made(table: Mapping[str, Any], words: PreTrainedTokenizerBase) -> Any:
    """A processor from its table; tables inside that name a class are parts of it."""
    parts = {
        name: _made(value, words) if isinstance(value, dict) and "class" in value else value
        for name, value in table.items()
        if name != "class"
    }
    made = _named(table["class"])
    if "image_processor" in parts or "feature_extractor" in parts:
        parts["tokenizer"] = words
        if table.get("qformer_tokenizer") == "same":
            parts["qformer_tokenizer"] = words
    return made(**{name: _keyed(value) for name, value in parts.items()})


def _named(name: str) -> Any:
    """A class of Transformers; of those that torchvision does the work for, without it the one that Pillow does."""
    found = getattr(transformers, name)
    if isinstance(found, DummyObject):
        found = getattr(transformers, f"{name}Pil", None)
    if found is None or isinstance(found, DummyObject):
        raise BuildError(MISSING)
    return found


def _keyed(value: Any) -> Any:
    """Tables whose keys are numbers have them as numbers."""
    if isinstance(value, dict) and value and all(key.isdecimal() for key in value):
        return {int(key): inner for key, inner in value.items()}
    return value


def _with_ids(kind: Kind, words: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The kind's entries, with ids where those of tokens belong; "*" is the whole vocabulary."""

    def ids(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: ids(inner) for name, inner in value.items()}
        return words.get_vocab() if value == "*" else words.convert_tokens_to_ids(value)

    return _joined(kind.config, ids(kind.ids))


def _joined(config: Mapping[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(config)
    for name, value in ids.items():
        inner = found.get(name)
        nested = isinstance(value, dict) and isinstance(inner, dict)
        found[name] = _joined(inner, value) if nested and isinstance(inner, dict) else value
    return found


def _model(kind: Kind, config: PretrainedConfig) -> PreTrainedModel:
    made: Any = getattr(transformers, kind.architecture)
    with torch.device("meta"):
        n_weights = sum(weight.numel() for weight in made(config).parameters())
    if n_weights > _MOST_WEIGHTS:
        raise BuildError(f"{n_weights / 1e6:.0f} million weights: not tiny")
    torch.manual_seed(0)
    model: PreTrainedModel = made(config).float().eval()
    _spread(model)
    if kind.opened:
        _open(model)
    return model


@torch.no_grad()
def _spread(model: PreTrainedModel) -> None:
    """Redraw matrices widely, and what begins at zero: near-uniform attention would hide errors."""
    generator = torch.Generator().manual_seed(1)
    for path, module in model.named_modules():
        seeing = any(part in path for part in (*_SEEING, "encoder"))
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim < 2:
                if not weight.any() and "bias" not in name:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * _STD)
                continue
            matrix = isinstance(module, nn.Linear | nn.Embedding) or type(module).__name__ == "Conv1D"
            if matrix or "experts" in f"{path}.{name}" or name.endswith("proj"):
                weight.copy_(torch.randn(weight.shape, generator=generator) * (_SEEING_STD if seeing else _STD))
            elif seeing:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)


@torch.no_grad()
def _open(model: PreTrainedModel) -> None:
    """Cross-attention that begins closed would not see the image."""
    for name, weight in model.named_parameters():
        if ("gate" in name and weight.ndim <= 1) or "alpha_" in name:
            weight.fill_(0.7)
