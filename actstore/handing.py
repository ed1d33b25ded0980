"""Handing on: names that a package offers, imported from its modules when they are first used."""

from collections.abc import Callable, Sequence
from importlib import import_module

__all__ = ["handed_on"]


def handed_on(
    package: str, names: Sequence[str], home: str, **homes: str
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: its names are those of its module `home`, but for those in `homes`.

    So `actstore --help` needs none of numpy, polars and duckdb, and a command loads before its measure does.
    """

    def get(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{homes.get(name, home)}"), name)

    return get, lambda: sorted(names)
