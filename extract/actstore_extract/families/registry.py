"""The families there are: every file of this package that ends in `FAMILY = ...`."""

import importlib
import pkgutil
from functools import cache

from transformers import PretrainedConfig

from actstore.errors import nearest
from actstore_extract.families.errors import LoadError
from actstore_extract.families.family import Family

__all__ = ["families", "family_named", "family_of"]


@cache
def families() -> dict[str, Family]:
    """Name -> family.

    >>> sorted(families())[:2]
    ['aria', 'blip2']
    """
    package = __name__.rpartition(".")[0]
    path = importlib.import_module(package).__path__
    modules = [importlib.import_module(f"{package}.{info.name}") for info in pkgutil.iter_modules(path)]
    found = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.name: family for family in found}


def family_named(name: str) -> Family:
    """The family of that name."""
    if name not in families():
        known = sorted(families())
        hint = nearest(name, known, f"there are {', '.join(known)}")
        raise LoadError(f"no family is called {name!r}{hint}")
    return families()[name]


def family_of(architecture: str, config: PretrainedConfig, name: str | None = None) -> Family:
    """The family called `name`, else the one that serves the architecture, else the generic one.

    LoadError when the family called `name` serves others, and not this architecture.
    """
    served = (family for family in families().values() if family.serves(architecture, config))
    own = next(served, families()["generic"])
    if name is None:
        return own
    chosen = family_named(name)
    if architecture and chosen.architectures and not chosen.serves(architecture, config):
        raise LoadError(
            f"family {name!r} is for {' and '.join(chosen.architectures)}, and this is a {architecture}: "
            f"leave the family out, which is then {own.name!r}"
        )
    return chosen
