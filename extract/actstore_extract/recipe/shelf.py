"""The recipes that ship: files of their own, and one for each experiment of each model.

    recipes/NAME.toml               a whole recipe, called NAME
    recipes/experiments/WHAT.toml   what all models have in common in an experiment
    recipes/models/MODEL.toml       [model], and for each experiment it takes part in [experiments.WHAT], with what it
                                    has otherwise; together they are the recipe MODEL/WHAT

An experiment that is `like` another takes what that one says, and what models say for that one, before its own. Parts
may have a `note` for readers, beside which stands where the samples come from, and say [facts] from which costs are
estimated; a model may need an `extra`.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from textwrap import wrap
from typing import Any

from actstore_extract.recipe.toml import LISTS, SECTIONS, toml
from actstore_extract.samples import SOURCES

__all__ = ["Shipped", "shipped"]

NOTE = 116  # characters of a line of a note


@dataclass(frozen=True)
class Shipped:
    """A recipe as its file has it, `data`; `facts` are known of one that is put together; `text` is its TOML, and
    `extra` the extra of the package that its model needs beside `extract`."""

    data: dict[str, Any]
    text: str
    facts: dict[str, float] = field(default_factory=dict)
    extra: str | None = None


@cache
def shipped() -> dict[str, Shipped]:
    """Recipes by name: those of their own first.

    >>> [name for name in shipped() if name.endswith("/sae")]
    ['clip-gemma-2-2b/sae', 'paligemma2-3b/sae']
    """
    folder = Path(str(files("actstore_extract") / "recipes"))
    whole = {path.stem: Shipped(_read(path), path.read_text(encoding="utf-8")) for path in _files(folder)}
    experiments = {path.stem: _read(path) for path in _files(folder / "experiments")}
    models = {path.stem: _read(path) for path in _files(folder / "models")}
    pairs = [(name, what) for name in models for what in sorted(models[name]["experiments"])]
    return whole | {f"{name}/{what}": _composed(models[name], experiments, what) for name, what in pairs}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"))


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _composed(model: Mapping[str, Any], experiments: Mapping[str, Mapping[str, Any]], what: str) -> Shipped:
    """The recipe of a model in an experiment: what the model's file says for it comes last."""
    names = [what]
    while "like" in experiments[names[0]]:
        names.insert(0, experiments[names[0]]["like"])
    pairs = [part for name in names for part in (experiments[name], model["experiments"].get(name, {}))]
    parts = (pairs[0], {"model": model["model"]}, *pairs[1:])
    data: dict[str, Any] = {"about": experiments[what]["about"]}
    data |= {name: part[name] for part in parts for name in LISTS if name in part}
    data |= {name: _merged(part.get(name, {}) for part in parts) for name in SECTIONS}
    facts = _merged(part.get("facts", {}) for part in (pairs[0], model, *pairs[1:]))
    notes = [part["note"].strip() for part in (experiments[what], model) if "note" in part]
    if origin := SOURCES[data["samples"]["source"]].origin:
        said = f"Data: {origin}. Say where they lie: --set samples.path=FOLDER"
        notes.append("\n".join(wrap(said, NOTE, break_on_hyphens=False, break_long_words=False)))
    return Shipped(data, toml(data, notes), facts, model.get("extra"))


def _merged(sections: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for section in sections for key, value in section.items()}
