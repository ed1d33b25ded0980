"""What recipes of all kinds have in common: TOML, changed on the command line, checked section by section."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from actstore.errors import ActstoreError, nearest
from actstore.format.names import HEADER
from actstore.storage import local

__all__ = ["RecipeError", "check_keys", "override", "read", "section"]


class RecipeError(ActstoreError):
    """The recipe cannot be followed."""


def read(name: str, known: Sequence[str], listed_by: str) -> dict[str, Any]:
    """A recipe's file; `known` ship, and the command `listed_by` lists them."""
    try:
        return tomllib.loads(local.content(Path(name)).decode("utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError):
        if Path(name, HEADER).exists():
            raise RecipeError(f"'{name}' is a store, no recipe: the recipe comes first, then the store") from None
        raise RecipeError(
            f"no recipe '{name}': neither a file nor one that ships"
            f"{nearest(name, list(known), f'see them all with: {listed_by}')}"
        ) from None
    except (ValueError, RecursionError, OSError) as error:  # tomllib's own, and Python's over 4,300 digits
        raise RecipeError(f"{name}: {error}") from None


def override(data: dict[str, Any], change: str, *, depth: int = 1) -> None:
    """Apply `section.key=value`, with up to `depth` sections; the value is TOML, or text where it is none."""
    key, equals, text = change.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not last or len(sections) > depth:
        raise RecipeError(f"--set {change}: write section.key=value, for example --set samples.limit=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    target = data
    for name in sections:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise RecipeError(f"--set {change}: '{name}' is no section of the recipe, but {target!r}")
    target[last] = value


LARGEST = 2**63 - 1
Kind = TypeVar("Kind", bound=BaseModel)


def section(kind: type[Kind], data: Mapping[str, Any], where: str) -> Kind:
    """The section as its class has it; RecipeError names the key, and the nearest that exists."""
    check_keys(data, kind, where)
    for key, value in data.items():
        if any(abs(number) > LARGEST for number in _integers(value)):
            raise RecipeError(f"{where} {key}: a whole number of more than 63 bits")
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        at = f"{where} {key}" if key else where
        raise RecipeError(f"{at}: {first['msg'].removeprefix('Value error, ')}") from None


def _integers(value: Any) -> Iterator[int]:
    """The whole numbers in a value, however deep."""
    if isinstance(value, int):
        yield value
    for inside in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _integers(inside)


def check_keys(data: Mapping[str, Any], kind: type[BaseModel], where: str) -> None:
    """RecipeError for a key that the section does not have."""
    known = list(kind.model_fields)
    for key in data:
        if key not in known:
            hint = nearest(key, known, f"keys are {', '.join(known)}")
            raise RecipeError(f"{where}: unknown key '{key}'{hint}")
