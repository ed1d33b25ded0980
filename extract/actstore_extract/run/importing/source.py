"""Sources: samples in blocks, one after the other, and the vectors of each block by role and residual point."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_extract.run.importing.files import Array

__all__ = ["ALL", "Block", "Source", "Vectors", "check_points", "few", "same", "shape_of"]

ALL = "all"  # the role of every position of a sample
SHOWN = 6  # names that a message lists
Vectors = Mapping[tuple[str, int], Array]  # by role and layer, (n, k, d)


@dataclass(frozen=True)
class Block:
    """Some samples (n) of a source, whose vectors are read together.

    positions: of the k positions of each role, where they are known: (k,) or (n, k). token_ids: so, (n, k).
    sample: its name, where it is one that the source names.
    """

    name: str
    n: int
    read: Callable[[], Vectors]
    positions: Mapping[str, NDArray[np.integer[Any]]] = field(default_factory=dict)
    token_ids: Mapping[str, NDArray[np.integer[Any]]] = field(default_factory=dict)
    sample: str | None = None


@dataclass(frozen=True)
class Source:
    """What is imported.

    files: those that it is read from. columns: what it says of its samples itself, a row each, in order. card: what it
    says of the run. said: what the user should know. modalities: of roles, where they are known.
    """

    blocks: Sequence[Block]
    layers: Sequence[int]
    files: Sequence[Path]
    columns: pl.DataFrame | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    said: Sequence[str] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    modalities: Mapping[str, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many samples it has."""
        return sum(block.n for block in self.blocks)

    def of_model(self, name: str) -> "Source":
        """The same, said to be of a model."""
        return replace(self, card={**self.card, "model": name})


def shape_of(array: Array) -> tuple[int, ...]:
    """The shape of an array as plain numbers."""
    return tuple(map(int, array.shape))


def same(one: Array, other: Array) -> bool:
    """Whether two arrays hold the same numbers."""
    return shape_of(one) == shape_of(other) and one.dtype == other.dtype and bool((one == other).all())


def check_points(points: Mapping[str, Collection[tuple[str, int]]]) -> list[int]:
    """The layers of blocks, by their names; ActstoreError unless all have the same roles at the same layers."""
    (first_name, first), *others = points.items()
    for name, found in others:
        if odd := sorted(set(found) ^ set(first)):
            role, layer = odd[0]
            there, here = (first_name, name) if odd[0] in first else (name, first_name)
            raise ActstoreError(
                f"{there} has role '{role}' at layer {layer}, {here} has not: is a file missing, or cut?"
            )
    layers = sorted({layer for _, layer in first})
    roles = {role for role, _ in first}
    if absent := sorted({(role, layer) for role in roles for layer in layers} - set(first)):
        raise ActstoreError(
            f"{first_name} has role '{absent[0][0]}' not at layer {absent[0][1]}, but others: all or none"
        )
    return layers


def few(names: Sequence[object]) -> str:
    """Some names, of which the first are said."""
    return ", ".join(map(str, names[:SHOWN])) + ", ..." * (len(names) > SHOWN)
