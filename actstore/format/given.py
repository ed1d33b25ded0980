"""What a caller gives: numbers, names, texts and paths, checked once, where they enter."""

import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actstore.errors import ActstoreError
from actstore.storage.urls import is_url

SHOWN = 60  # characters of what was given, that an error repeats

__all__ = ["each", "named", "names", "numbers", "path_of", "place_of", "short", "suffix_of", "text", "truth", "whole"]


def whole(number: object, what: str, least: int | None = None, most: int | None = None) -> int:
    """A whole number of Python, numpy or torch; ActstoreError for anything else, True and False among it.

    >>> whole(3, "a layer")
    3
    """
    try:
        if "bool" in str(getattr(number, "dtype", type(number).__name__)):
            raise TypeError
        found = operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        raise ActstoreError(f"{what} is a whole number, not {short(number)}") from None
    if (least is not None and found < least) or (most is not None and found > most):
        raise ActstoreError(f"{what} is {f'at least {least}' if most is None else f'{least}..{most}'}, not {found}")
    return int(found)


def numbers(given: object, what: str, *, some: bool = True) -> list[int]:
    """Whole numbers in a list, an array, a tensor, a range; ActstoreError for anything else, one number among it.

    some: there is one at least.

    >>> numbers(range(2), "layers")
    [0, 1]
    """
    if (found := each(given)) is None:
        raise ActstoreError(f"{what} are a list of numbers, not {short(given)}: {what}=[0, 6]")
    if some and not found:
        raise ActstoreError(f"{what} is an empty list; say at least one")
    return [whole(one, f"a {what.removesuffix('s')}") for one in found]


def names(given: object, what: str) -> list[str]:
    """Names in a list; one text is a list of one. ActstoreError for anything but texts.

    >>> names("eoi", "roles"), names(("eoi", "last"), "roles")
    (['eoi'], ['eoi', 'last'])
    """
    found = [given] if isinstance(given, str) else each(given)
    if found is None or not all(isinstance(one, str) for one in found):
        raise ActstoreError(f"{what} are names in a list, not {short(given)}")
    return [str(one) for one in found]


def named(given: object, what: str) -> dict[Any, Any]:
    """Values by their names; none for None. ActstoreError for anything else."""
    if not isinstance(given, Mapping | None):
        raise ActstoreError(f"{what} has values by their names, and is not {short(given)}")
    return dict(given or {})


def each(given: Any) -> list[Any] | None:
    """What a list holds, or another thing of one axis: an array, a tensor, a set; None of a text, a table, a number."""
    if isinstance(given, str | bytes | Mapping) or hasattr(given, "columns") or getattr(given, "ndim", 1) != 1:
        return None
    try:
        return list(given.tolist() if hasattr(given, "tolist") else given)
    except TypeError:
        return None


def text(given: object, what: str) -> str:
    """A text; ActstoreError for anything else."""
    if not isinstance(given, str):
        raise ActstoreError(f"{what} is text, not {short(given)}")
    return str(given)


def truth(given: object, what: str) -> bool:
    """True or False of Python or numpy; ActstoreError for anything else: a text is true, whatever it says.

    >>> truth(True, "pictures")
    True
    """
    if type(given).__name__ not in ("bool", "bool_"):
        raise ActstoreError(f"{what} is True or False, not {short(given)}")
    return bool(given)


def path_of(given: object, what: str) -> Path:
    """A path; ActstoreError for what is none, and for one without a name."""
    try:
        found = os.fspath(given)  # type: ignore[call-overload]
    except TypeError:
        found = None
    if not isinstance(found, str) or not found:
        raise ActstoreError(f"{what} is a path, not {short(given)}")
    return Path(found)


def place_of(given: object, what: str) -> Path | str:
    """A path, or a URL, which stays a text; ActstoreError as for `path_of`."""
    return str(given) if is_url(given) else path_of(given, what)


def suffix_of(path: Path | str) -> str:
    """The suffix of a file that says its form, in small letters: some systems write it in large ones.

    >>> suffix_of("ratings.CSV")
    '.csv'
    """
    return Path(path).suffix.lower()


def short(given: object) -> str:
    """What was given, in a few words."""
    shown = repr(given)
    return type(given).__name__ if len(shown) > SHOWN or shown[0] == "<" or "\n" in shown else shown
