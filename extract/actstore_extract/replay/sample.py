"""What a replay is given: a sample as it is stored, and what is to be put into it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actstore_extract.roles import Layout, Point, Positions

__all__ = ["Branch", "Job", "Kept", "Put", "Vectors"]

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Kept:
    """One sample as a store has it: its layout, and readers.

    `residual(layer, at)` are the vectors (n, d) that enter block `layer` (L: the final norm) at positions `at`;
    `cached(block, n)`, where they are stored, the keys and values (n, key heads * d) of its first n positions.
    """

    sample_id: str
    layout: Layout
    residual: Callable[[int, Positions], Vectors]
    cached: Callable[[int, int], tuple[Vectors, Vectors]] | None = None


@dataclass(frozen=True)
class Put:
    """What takes the place of a sample's vectors at positions `at`: `vectors(layer)` (n, d), residual streams there.

    At the point "residual" that is in the layer where a branch begins, and there alone; with a `factor` they are
    added, so many times. At "attention-input" it is what attention reads, in that block and all that follow.
    """

    at: Positions
    vectors: Callable[[int], Vectors]
    point: Point = "residual"
    factor: float | None = None


@dataclass(frozen=True)
class Branch:
    """One replay of a sample: from residual point `layer` on, with what is put there; None: as it was."""

    layer: int
    put: Put | None = None


@dataclass(frozen=True)
class Job:
    """A sample with the branches that leave it; their first `past` slots are as they were, so they are not run."""

    sample: Kept
    branches: tuple[Branch, ...]
    past: int
