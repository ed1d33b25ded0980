"""Proposals in float32: the points that may be nearest, from products of blocks."""

import faiss
import numpy as np
from numpy.typing import NDArray

from actstore_analyze.neighbors.neighbors import Ints

__all__ = ["proposed"]


def proposed(centred: NDArray[np.float32], rows: Ints, width: int) -> tuple[NDArray[np.float32], Ints]:
    """Squared distances |x|^2 + |y|^2 - 2 x.y (m, width), ascending, and indices of the nearest of each of the rows.

    centred (n, d): all points; rows (m,): those whose neighbours are asked for, themselves among their neighbours.
    In float32, the terms of x.y summed in any order: the caller allows for how far such a sum may err.
    """
    estimates, columns = faiss.knn(centred if len(rows) == len(centred) else centred[rows], centred, width)
    return estimates, columns
