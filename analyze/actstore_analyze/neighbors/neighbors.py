"""Neighbours of points: how far and which, nearest first."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError

__all__ = ["Floats", "Ints", "Neighbors"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The k nearest points of each point, nearest first: distances (n, k) and indices (n, k).

    queries (m,): the points that these are of, ascending, of which there are m rows; None where they are of all.
    others: how many points there are beside the queries.
    """

    distances: Floats
    indices: Ints
    queries: Ints | None = None
    others: int = 0

    @property
    def n(self) -> int:
        """How many points there are."""
        return len(self.indices) + self.others

    @property
    def points(self) -> Ints:
        """The index of the point that each row is of."""
        return np.arange(len(self.indices)) if self.queries is None else self.queries

    def first(self, k: int) -> "Neighbors":
        """The nearest k of the neighbours kept.

        >>> from actstore_analyze.neighbors import nearest
        >>> nearest(np.array([[0.0], [1.0], [3.0]]), 2).first(1).indices.tolist()
        [[1], [0], [1]]
        """
        kept = self.indices.shape[1]
        if not 1 <= k <= kept:
            raise ActstoreError(f"k = {k}, but {kept} neighbours of each point are known; search for k or more")
        return Neighbors(self.distances[:, :k], self.indices[:, :k], self.queries, self.others)

    def among(self, chosen: Ints, most: int) -> "Neighbors":
        """Those of chosen points (m,), ascending, among themselves: as many as each is known to have, `most` at most.

        >>> from actstore_analyze.neighbors import nearest
        >>> nearest(np.array([[0.0], [1.0], [3.0], [7.0]]), 3).among(np.array([0, 2, 3]), 1).indices.tolist()
        [[1], [0], [1]]
        """
        place = np.full(self.n, -1)
        place[chosen] = np.arange(len(chosen))
        rows = np.flatnonzero(place[self.points] >= 0)
        indices = place[self.indices[rows]]
        so_far = (indices >= 0).cumsum(axis=1)
        k = min(most, int(so_far[:, -1].min(initial=most)))
        kept = (indices >= 0) & (so_far <= k)
        shape, queries = (len(rows), k), None if self.queries is None else place[self.queries[rows]]
        return Neighbors(
            self.distances[rows][kept].reshape(shape), indices[kept].reshape(shape), queries, len(chosen) - len(rows)
        )
