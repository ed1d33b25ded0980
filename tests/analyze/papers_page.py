"""PAPERS.md, read: the recipes and commands of its first table."""

import re
import shlex
from importlib.resources import files
from typing import NamedTuple

from actstore_extract.recipe.shelf import shipped

PAGE = (files("actstore_analyze") / "PAPERS.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"`([^`\n]+)`", PAGE)
MODELS = ["chameleon-7b", "chameleon-34b", "emu3", "llava-onevision-7b", "pixtral-12b", "janus-1.3b"]


class Row(NamedTuple):
    """A figure or table: the recipes that it is extracted by, and what is run then, as words."""

    what: str
    recipes: tuple[str, ...]
    calls: tuple[tuple[str, ...], ...]


def rows() -> list[Row]:
    """Those of the first table that have a recipe."""
    _, _, rest = PAGE.partition("## What makes each figure and table")
    table = [line.split("|")[1:-1] for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    found = []
    for what, extract, then, _ in table:
        named = re.findall(r"`([\w.-]+/[\w-]+)`", extract)
        recipes = [one.replace("MODEL", model) for one in named for model in (MODELS if "MODEL" in one else [""])]
        calls = [tuple(shlex.split(words)[1:]) for words in re.findall(r"`(actstore [^`]+)`", then)]
        found.append(Row(what.strip(), tuple(name for name in recipes if name in shipped()), tuple(calls)))
    return [row for row in found if row.recipes]
