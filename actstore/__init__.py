"""Activation stores: run a vision-language model once, re-analyse it anywhere, with SQL.

>>> import actstore
>>> sorted(actstore.__all__)[:3]
['ActstoreError', 'AlreadyCommittedError', 'Attention']
"""

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
from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore.creation.empty import create
    from actstore.creation.writer import Writer
    from actstore.limits import Limits
    from actstore.read.vectors import Attention
    from actstore.store import Store, open  # noqa: A004  (actstore.open reads as it should)

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
    "Writer",
    "create",
    "open",
]

__getattr__, __dir__ = handed_on(
    __name__,
    __all__,
    "store",
    Attention="read.vectors",
    create="creation.empty",
    Limits="limits",
    Writer="creation.writer",
)
