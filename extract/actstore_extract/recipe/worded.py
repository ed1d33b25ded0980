"""Roles by words: which columns of the samples a recipe's roles name, and where their text stands in a prompt."""

import re
from collections.abc import Iterator, Mapping, Sequence
from unicodedata import east_asian_width

from actstore.errors import nearest
from actstore_extract.families import Spans
from actstore_extract.pictures import MARKER
from actstore_extract.recipe.prompts import ALL, pieces
from actstore_extract.recipe.recipe import PromptSection, Recipe, RecipeError

__all__ = ["places", "word_columns", "words_of"]

_ROLE = re.compile(r"words?-(.+)")


def words_of(columns: Sequence[str]) -> dict[str, list[str]]:
    """What roles call the columns: those that are written so, with - for _.

    >>> words_of(["country", "big_dog"])
    {'country': ['country'], 'big-dog': ['big_dog']}
    """
    found: dict[str, list[str]] = {}
    for name in columns:
        if written := re.sub("_+", "-", name).strip("-"):
            found.setdefault(written, []).append(name)
    return found


def word_columns(recipe: Recipe, columns: Sequence[str]) -> dict[str, str]:
    """The columns of the samples that the recipe's roles by words name, by what they are called there.

    RecipeError for one that no column is called, or several.
    """
    known, found = words_of(columns), dict[str, str]()
    for role in _roles(recipe):
        if (match := _ROLE.fullmatch(role)) is None:
            continue
        name = match[1]
        own = known.get(name, [])
        if not own:
            raise RecipeError(f"role {role}: the samples have no column '{name}'{nearest(name, list(known))}")
        if len(own) > 1:
            raise RecipeError(f"role {role}: it names the columns {' and '.join(own)}: rename one, [samples] columns")
        found[name] = own[0]
    return found


def _roles(recipe: Recipe) -> Iterator[str]:
    """All roles that the recipe names."""
    capture = recipe.capture
    yield from (*capture.roles, *capture.kv, *capture.attention)
    for one in [*(vars(section) for section in recipe.conditions), *recipe.model.blocked]:
        for key in ("keys", "queries", "patch", "steer"):
            names = one.get(key, ())
            yield from [names] if isinstance(names, str) else names


def places(section: PromptSection, row: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, Spans]:
    """Where the text of columns stands in a sample's prompt, by what roles call them.

    That is what the template fills in, if it names the column; of any other prompt it is wherever the text stands as
    words of its own. Columns whose text is not there are left out.
    """
    template, prompt = section.text, str(row["prompt"])
    if isinstance(template, dict):
        template = template.get(str(row["prompt_order"]))
    filled = {} if template is None else _filled(template, row, prompt)
    found = {name: filled[own] if own in filled else _standing(row[own], prompt) for name, own in columns.items()}
    return {name: spans for name, spans in found.items() if spans}


def _filled(template: str, row: Mapping[str, object], prompt: str) -> dict[str, Spans]:
    """Where the template fills in each column that it names, without white space around."""
    names = row["image"]
    markers = MARKER * (len(names) if isinstance(names, list) else int(names is not None))
    found: dict[str, Spans] = {}
    at = 0
    for text, column in pieces(template, row):
        own = text.replace(ALL, markers)
        if column is not None:
            start = at + len(own) - len(own.lstrip())
            one = ((start, start + len(own.strip())),) if own.strip() else ()
            found[column] = (*found.get(column, ()), *one)
        at += len(own)
    assert at == len(prompt), "the plan fills in prompts so"
    return found


def _standing(value: object, prompt: str) -> Spans:
    """Where a value stands in the prompt as words of its own.

    >>> _standing("Niger", "Niger is not Nigeria, nor is Niger.")
    ((0, 5), (29, 34))
    """
    text = "" if value is None else str(value).strip()
    found = re.finditer(re.escape(text), prompt) if text else ()
    edges = ((match, prompt[: match.start()][-1:], prompt[match.end() :][:1]) for match in found)
    return tuple(
        match.span() for match, before, after in edges if not _joined(before, text[0]) and not _joined(text[-1], after)
    )


def _joined(one: str, other: str) -> bool:
    """Whether two characters, one behind the other, are of one word; in scripts without spaces none are."""
    return all(each.isalnum() and east_asian_width(each) not in "WF" for each in (one, other))
