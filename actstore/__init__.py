"""Activation stores: run a vision-language model once, re-analyse it anywhere, with SQL.

>>> import actstore
>>> sorted(actstore.__all__)[:3]
['ActstoreError', 'AlreadyCommittedError', 'Attention']
"""

from actstore.errors import (
    ActstoreError,
    AlreadyCommittedError,
    CorruptError,
    FormatError,
    NotAStoreError,
    PlanError,
    QueryError,
)
from actstore.store import Attention, Store, create, open  # noqa: A004  (actstore.open reads as it should)

__all__ = [
    "ActstoreError",
    "AlreadyCommittedError",
    "Attention",
    "CorruptError",
    "FormatError",
    "NotAStoreError",
    "PlanError",
    "QueryError",
    "Store",
    "create",
    "open",
]
