"""Recipes as TOML: those that are put together, and those in the run cards of stores."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["LISTS", "SECTIONS", "toml", "value"]

SECTIONS = ("model", "samples", "prompt", "capture")
LISTS = ("conditions",)
BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml(data: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """A recipe as text, the notes as comments above it; TOML has no null, so there may be none in `data`.

    >>> print(toml({"about": "Cats", "prompt": {"text": {"text": "a\\n"}}, "capture": {"roles": ["eoi"]}}, ["Big."]))
    # Big.
    about = "Cats"
    <BLANKLINE>
    [prompt]
    text = { text = "a\\n" }
    <BLANKLINE>
    [capture]
    roles = ["eoi"]
    <BLANKLINE>
    """
    comments = [f"# {line}".rstrip() for note in notes for line in note.splitlines()]
    plain = [f"{_key(key)} = {value(one)}" for key, one in data.items() if key not in (*SECTIONS, *LISTS)]
    lists = [line for name in LISTS if name in data for line in _lines(name, data[name])]
    sections = [
        ["", f"[{name}]", *(f"{_key(key)} = {value(one)}" for key, one in data[name].items())]
        for name in SECTIONS
        if name in data
    ]
    return "\n".join([*comments, *plain, *lists, *(line for section in sections for line in section), ""])


def _lines(name: str, items: Iterable[object]) -> list[str]:
    return [f"{name} = [", *(f"    {value(item)}," for item in items), "]"]


def _key(key: str) -> str:
    """
    >>> _key("eoi-knockout"), _key("New York")
    ('eoi-knockout', '"New York"')
    """
    return key if BARE.fullmatch(key) else _text(key)


def value(given: object) -> str:
    """A value as TOML; JSON's texts and numbers are TOML's too."""
    if isinstance(given, dict):
        inside = ", ".join(f"{_key(key)} = {value(item)}" for key, item in given.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(given, list):
        return "[" + ", ".join(map(value, given)) + "]"
    return _text(given)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which JSON may hold as it is
