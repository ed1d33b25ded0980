"""Activation stores: run a vision-language model once, re-analyse it anywhere, with SQL.

>>> import actstore
>>> sorted(actstore.__all__)[:3]
['ActstoreError', 'AlreadyCommittedError', 'Attention']
"""

from importlib import import_module
from typing import TYPE_CHECKING

from actstore.errors import (
    ActstoreError,
    AlreadyCommittedError,
    CorruptError,
    FormatError,
    NotAStoreError,
    PlanError,
    QueryError,
)

if TYPE_CHECKING:
    from actstore.creation import create
    from actstore.limits import Limits
    from actstore.store import Attention, Store, open  # noqa: A004  (actstore.open reads as it should)

__all__ = [
    "ActstoreError",
    "AlreadyCommittedError",
    "Attention",
    "CorruptError",
    "FormatError",
    "Limits",
    "NotAStoreError",
    "PlanError",
    "QueryError",
    "Store",
    "create",
    "open",
]

HOMES = {"create": "creation", "Limits": "limits"}


def __getattr__(name: str) -> object:
    """The rest of __all__, imported when first used: `actstore --help` needs none of numpy, polars and duckdb."""
    if name not in __all__:
        raise AttributeError(f"module 'actstore' has no attribute '{name}'")
    return getattr(import_module(f"actstore.{HOMES.get(name, 'store')}"), name)
