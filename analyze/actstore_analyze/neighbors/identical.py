"""Identical points, looked for once: which these are, and neighbours of all from those of the distinct ones."""

from hashlib import blake2b

import numpy as np

from actstore_analyze.neighbors.exact import SCAN_BYTES, blocks
from actstore_analyze.neighbors.neighbors import Ints, Neighbors
from actstore_analyze.neighbors.points import Points

__all__ = ["expanded", "owners_of", "prints"]


def owners_of(points: Points) -> Ints:
    """For each point the lowest index of a point equal to it; only those with the same sum are looked at."""
    owners = np.arange(len(points))
    with np.errstate(over="ignore", invalid="ignore"):  # equal vectors have equal sums, whatever these are
        sums = points.sum(axis=1)
    _, which, counts = np.unique(sums, return_inverse=True, return_counts=True)
    seen: dict[bytes, int] = {}
    for i in np.flatnonzero(counts[which] > 1).tolist():
        owners[i] = seen.setdefault(_print(points[i]), i)
    return owners


def prints(points: Points) -> list[bytes]:
    """Bytes that are the same of equal points alone."""
    return [_print(point) for point in points]


def _print(point: Points) -> bytes:
    return blake2b((point + 0.0).data, digest_size=16).digest()


def expanded(found: Neighbors, group: Ints, rows: Ints, k: int) -> Neighbors:
    """Neighbours of rows from those of the distinct points; group (n,) says which of these each point equals.

    Among the k + 1 nearest of a point, itself included, are members of its own group and of the k nearest
    others only, and of each no more than its first k + 1.
    """
    members = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    distances = np.empty((len(found.points), k + 1))
    indices = np.empty((len(found.points), k + 1), np.int64)
    groups = np.column_stack([found.points, found.indices])
    away = np.column_stack([np.zeros(len(groups)), found.distances])
    for part in blocks(len(groups), groups.shape[1] * (k + 1) * 8, SCAN_BYTES):
        listed = groups[part].ravel()
        taken = np.minimum(sizes[listed], k + 1)
        place = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        row = np.repeat(np.repeat(np.arange(len(groups[part])), groups.shape[1]), taken)
        index = members[np.repeat(starts[listed], taken) + place]
        distance = np.repeat(away[part].ravel(), taken)
        order = np.lexsort((index, distance, row))
        nearest_of = np.searchsorted(row, np.arange(len(groups[part])))[:, None] + np.arange(k + 1)
        distances[part], indices[part] = distance[order][nearest_of], index[order][nearest_of]
    which = np.searchsorted(found.points, group[rows])
    return _without_self(Neighbors(distances[which], indices[which], rows))


def _without_self(found: Neighbors) -> Neighbors:
    """Each point's list without the point; its last entry goes where equal points of lower index fill the list."""
    n, width = found.indices.shape
    drop = found.indices == found.points[:, None]
    drop[~drop.any(axis=1), -1] = True
    return Neighbors(
        found.distances[~drop].reshape(n, width - 1), found.indices[~drop].reshape(n, width - 1), found.queries
    )
