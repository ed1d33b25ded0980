"""Kinds of models as data: what a tiny one of each class is made of, read from the files in `kinds/`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

__all__ = ["Kind", "image_text", "kind_named", "text_only", "variants"]

_FOLDER = Path(__file__).parent / "kinds"
_MERGED = ("tokens", "ids", "config", "processor")


@dataclass(frozen=True)
class Kind:
    """A class of Transformers, and how to make a tiny model of it without a network.

    `config` goes into the small configuration, `unset` are entries of it that are None, `ids` entries that are ids of
    tokens. `tokens` are attribute -> token of the tokenizer, `others` its other special tokens. `processor` names a
    class and what it is made of, tables with a class themselves; without one it is a tokenizer alone. `prompt` is what
    a user writes around a sample's words, with <image> where pictures are shown, `marker` what stands for the image in
    the processor's own call, `ask` what that call must be told, `end` the token that closes an image. `model` is the
    model type where it is not the name. `opened` says that gates begin closed and are opened, `codes` how the words
    begin that patches become, `norm` is the final norm's name where it is given something else than the last block
    gives, and `unbuilt` says why no tiny model of it can be made.
    """

    name: str
    model: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    ids: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    bos: str | None = "<s>"
    processor: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = "{}"
    marker: str | None = None
    ask: Mapping[str, Any] = field(default_factory=dict)
    end: str | None = None
    opened: bool = False
    codes: str | None = None
    norm: str | None = None
    unbuilt: str | None = None

    @property
    def model_type(self) -> str:
        """The model type of the configuration."""
        return self.model or self.name

    @property
    def image_text(self) -> bool:
        """Whether AutoModelForImageTextToText maps it."""
        return self.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    @property
    def sees(self) -> bool:
        """Whether it is shown pictures."""
        return "<image>" in self.prompt

    @property
    def architecture(self) -> str:
        """Name of the class that is built."""
        names = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if self.image_text else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        found = names[self.model_type]
        return found if isinstance(found, str) else found[0]


def image_text() -> list[str]:
    """Model types that AutoModelForImageTextToText maps."""
    return sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def text_only() -> list[str]:
    """Model types that AutoModelForCausalLM maps and the other does not: of those, the other's class is loaded."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys())


def variants() -> list[str]:
    """Kinds of the files that are a model type once more, in another configuration."""
    return sorted(name for name, entries in _entries().items() if "model" in entries)


def kind_named(name: str) -> Kind:
    """The kind of a model type, or a variant; without an entry in the files one with defaults alone."""
    entries: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in _whole(name).items()
    }
    return Kind(name, **entries)


@cache
def _entries() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(_FOLDER.glob("*.toml")):
        found.update(tomllib.loads(path.read_text(encoding="utf-8")))
    return found


def _whole(name: str) -> dict[str, Any]:
    """The entries of a kind on top of those of the one it is like."""
    own = dict(_entries().get(name, {}))
    like = own.pop("like", None)
    if like is None:
        return own
    base = {key: value for key, value in _whole(like).items() if key not in ("model", "unbuilt")}
    for key, value in own.items():
        base[key] = _merged(base.get(key, {}), value) if key in _MERGED else value
    return base


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` on top of `base`; tables are merged unless they name their own class or model type."""
    found = dict(base)
    for key, value in own.items():
        inner = found.get(key)
        whole = not isinstance(value, dict) or "class" in value or "model_type" in value or "rope_type" in value
        found[key] = value if whole or not isinstance(inner, dict) else _merged(inner, value)
    return found
