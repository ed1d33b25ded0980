"""Shadows of points in their leading directions: no two are farther apart than their points."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from actstore_analyze.neighbors.exact import blocks
from actstore_analyze.neighbors.neighbors import Floats, Ints

__all__ = ["cells", "leading", "shadows"]

Vectors = NDArray[np.float32]
_BLOCK_BYTES = 1 << 25
_SPLIT = 16  # directions along which cells are cut


def leading(sample: Vectors, r: int) -> Floats:
    """About the r directions (d, r) in which points vary most, the first most of all; orthonormal in float64."""
    with threadpool_limits(1, user_api="blas"):  # of many small steps, in which threads wait for each other
        directions = randomized_svd(sample, r, n_iter=2, power_iteration_normalizer="QR", random_state=0)[2]
        orthonormal: Floats = np.linalg.qr(directions.T.astype(np.float64))[0]
    return orthonormal


def shadows(points: Vectors, directions: Floats) -> Vectors:
    """Coordinates (n, r) of points in the directions, and the length of what these leave: (n, r + 1), in float32.

    Lengths are those of the points, and differences of lengths are no more than lengths of differences. So shadows are
    no farther apart than their points, but for rounding: by u of a coordinate, and of the length of what is
    left, taken in float64 from |x|^2 - |z|^2, by sqrt(4 d u64) |x|: 2^-19 |x| up to d = 8,000.
    """
    r = directions.shape[1]
    cast = np.empty((len(points), r + 1), np.float32)
    for part in blocks(len(points), points.shape[1] * 8, _BLOCK_BYTES):
        exact = points[part].astype(np.float64)
        along = exact @ directions
        cast[part, :r] = along
        cast[part, r] = np.sqrt(np.maximum(np.vecdot(exact, exact) - np.vecdot(along, along), 0))
    return cast


def cells(coordinates: Vectors, size: int) -> Ints:
    """An order (n,) of points in which each stretch of `size` is a cell: halves of halves along what varies most."""

    def cut(points: Ints) -> Iterator[Ints]:
        if len(points) <= size:
            yield points
            return
        inside = coordinates[points, :_SPLIT]
        half = -(-len(points) // (2 * size)) * size
        order = np.argpartition(inside[:, inside.var(axis=0).argmax()], half)
        yield from cut(points[order[:half]])
        yield from cut(points[order[half:]])

    return np.concatenate([*cut(np.arange(len(coordinates)))])
