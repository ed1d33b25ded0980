"""Recipes: what to run, on which samples, and what to keep; TOML, checked before anything is loaded."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from actstore.errors import ActstoreError, nearest
from actstore_extract.positions import RoleError, parse_role
from actstore_extract.samples import SOURCES, Source

__all__ = ["Recipe", "RecipeError", "load", "shipped"]


class RecipeError(ActstoreError):
    """The recipe cannot be followed."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """Which model: a folder, a name on the hub, or one that ships with the package."""

    path: str
    family: str | None = None
    revision: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    attention: str | None = None
    device_map: str | None = None
    blocked: list[dict[str, Any]] = []


class PromptSection(_Section):
    """What is asked: "<image>" stands for the image, {column} for a column of the sample."""

    text: str | None = None


class CaptureSection(_Section):
    """What is kept of each sample."""

    roles: Annotated[list[str], Field(min_length=1)]
    layers: Literal["all"] | list[int] = "all"
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    next_token: bool = True
    batch_size: Annotated[int, Field(ge=1)] = 16
    part_samples: Annotated[int, Field(ge=1)] | None = None

    @field_validator("roles")
    @classmethod
    def _canonical(cls, roles: list[str]) -> list[str]:
        try:
            return list(dict.fromkeys(parse_role(role).name for role in roles))
        except RoleError as error:
            raise ValueError(error) from None  # pydantic adds where


class Recipe(_Section):
    """A whole recipe; `samples` is of the class that its source has."""

    name: str
    about: str = ""
    seed: int = 0
    model: ModelSection
    samples: Source
    prompt: PromptSection = PromptSection()
    capture: CaptureSection

    def record(self) -> dict[str, Any]:
        """The recipe as JSON, as it is kept in the run card and compared on resume."""
        return {**self.model_dump(mode="json", exclude={"samples"}), "samples": self.samples.model_dump(mode="json")}


def shipped() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    folder = Path(str(files("actstore_extract") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or the shipped one of that name, with `section.key=value` overrides applied.

    Raises RecipeError with the file, the key and the nearest key that exists.
    """
    path = shipped().get(name, Path(name))
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise RecipeError(
            f"no recipe '{name}': neither a file nor one that ships{nearest(name, list(shipped()))}; "
            f"those are {', '.join(shipped())}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path}: {error}") from None
    for override in overrides:
        _override(data, override)
    return _recipe({"name": path.stem, **data}, str(path))


def _override(data: dict[str, Any], override: str) -> None:
    """Apply `section.key=value`; the value is TOML, or text where it is none."""
    key, equals, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not last or len(sections) > 1:
        raise RecipeError(f"--set {override}: write section.key=value, for example --set samples.limit=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    target = data
    for section in sections:
        target = target.setdefault(section, {})
    target[last] = value


Section = TypeVar("Section", bound=BaseModel)


def _recipe(data: Mapping[str, Any], where: str) -> Recipe:
    _check_keys(data, Recipe, where)
    sections = {name: data.get(name, {}) for name in ("model", "samples", "prompt", "capture")}
    for name, section in sections.items():
        if not isinstance(section, Mapping):
            raise RecipeError(f"{where}: {name} is a section: write [{name}] and its keys below it")
    source = sections["samples"].get("source")
    if source not in SOURCES:
        hint = nearest(str(source), list(SOURCES))
        raise RecipeError(f"{where}: [samples] source {source!r} is not one of {', '.join(SOURCES)}{hint}")
    parsed = {
        "model": _section(ModelSection, sections["model"], f"{where}: [model]"),
        "samples": _section(SOURCES[source], sections["samples"], f"{where}: [samples]"),
        "prompt": _section(PromptSection, sections["prompt"], f"{where}: [prompt]"),
        "capture": _section(CaptureSection, sections["capture"], f"{where}: [capture]"),
    }
    return _section(Recipe, {**data, **parsed}, where)


def _section(kind: type[Section], data: Mapping[str, Any], where: str) -> Section:
    _check_keys(data, kind, where)
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{where} {key}: {first['msg'].removeprefix('Value error, ')}") from None


def _check_keys(data: Mapping[str, Any], kind: type[BaseModel], where: str) -> None:
    known = list(kind.model_fields)
    for key in data:
        if key not in known:
            raise RecipeError(f"{where}: unknown key '{key}'{nearest(key, known)}; keys are {', '.join(known)}")
