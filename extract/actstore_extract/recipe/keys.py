"""The keys that a recipe may have and what each means, as `actstore recipes keys` and the documentation list them."""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from actstore_extract.interventions.knockouts import KnockoutSection
from actstore_extract.interventions.patches import PatchSection
from actstore_extract.interventions.steers import SteerSection
from actstore_extract.recipe.recipe import CaptureSection, ModelSection, PromptSection, Recipe, TurnSection
from actstore_extract.recipe.toml import value
from actstore_extract.samples import SOURCES, Source

__all__ = ["NEEDED", "SECTIONS", "Key", "keys"]

SECTIONS: dict[str, type[BaseModel]] = {
    "top": Recipe,
    "model": ModelSection,
    "samples": Source,
    **{f"samples of {name}": kind for name, kind in SOURCES.items()},
    "prompt": PromptSection,
    "prompt.turns": TurnSection,
    "capture": CaptureSection,
    "conditions, knockout": KnockoutSection,
    "conditions, patch": PatchSection,
    "conditions, steer": SteerSection,
}
NEEDED = "needed"
_NAMES = {bool: "true or false", dict: "table", float: "number", int: "number", list: "list", Path: "path", str: "text"}
_OTHERS = {date: "date", tuple: "list", type(None): ""}


class Key(NamedTuple):
    """A key of a section: `kind` in words, `default` ("needed" where there has to be one) and `example` as TOML."""

    section: str
    key: str
    kind: str
    default: str
    example: str
    meaning: str


def keys(sections: Mapping[str, type[BaseModel]] = SECTIONS) -> Iterator[Key]:
    """All keys, section by section; a source has those of all sources, too, which are listed once.

    >>> next(key for key in keys() if key.key == "batch_size")[1:5]
    ('batch_size', 'number', '16', 'batch_size = 16')
    """
    for section, kind in sections.items():
        common = Source.model_fields if issubclass(kind, Source) and kind is not Source else {}
        for name, field in kind.model_fields.items():
            if name in common or field.description is None:  # a section of its own
                continue
            default = NEEDED if field.is_required() else "" if field.default is None else value(_plain(field.default))
            if section == "top" and name == "name":
                default = "the file's name"
            example = field.examples[0] if field.examples else _other(field.default)
            yield Key(
                *(section, name, _kind(field.annotation), default),
                *(f"{name} = {value(_plain(example))}", " ".join((field.description or "").split())),
            )


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _other(default: Any) -> Any:
    """An example of a key without one: a switch the other way, else what it is without."""
    return not default if isinstance(default, bool) else default


def _plain(given: Any) -> Any:
    """As TOML has it: tuples are lists."""
    return [_plain(one) for one in given] if isinstance(given, (list, tuple)) else given


def _kind(annotation: Any) -> str:
    """`list of texts, or table`.

    >>> _kind(list[str] | dict[str, str] | None), _kind(Literal["all"] | list[int])
    ('list of texts, or table', '"all", or list of numbers')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return ", ".join(map(value, inner))
    if origin in (Union, UnionType):
        return ", or ".join(filter(None, map(_kind, inner)))
    if _is_section(annotation):
        return "table"
    name = (_NAMES | _OTHERS)[origin or annotation]
    return f"{name} of {_several(_kind(inner[0]))}" if name == "list" and inner else name


def _several(kind: str) -> str:
    """
    >>> _several("list of texts"), _several('"all", "test"')
    ('lists of texts', '"all", "test"')
    """
    return re.sub(r"^(table|text|list|number)\b", r"\1s", kind)
