"""Density of points from the distance of their k-th neighbour."""

from math import lgamma, log, pi

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.neighbors import Neighbors

__all__ = ["knn_log_density"]


def knn_log_density(neighbors: Neighbors, dimension: float, k: int) -> NDArray[np.float64]:
    """Natural log of the density (n,) at each point: k points in the ball of `dimension` that its k-th neighbour spans.

    log k - log V_d - d log r_k - log n with V_d = pi^(d/2) / Gamma(d/2 + 1); the standard error is 1 / sqrt(k)
    for every point. A distance of 0 (k + 1 equal points) counts as the machine epsilon.
    Raises ActstoreError for k beyond the neighbours known and for a dimension that is not positive.

    >>> from actstore_analyze.neighbors import nearest
    >>> found = nearest(np.linspace(0, 1, 101)[:, None], 2)
    >>> round(float(np.exp(knn_log_density(found, 1, 2)[50])), 2)  # of 101 points, 2 within 0.01 on either side
    0.99
    """
    if not (np.isfinite(dimension) and dimension > 0):
        raise ActstoreError(f"dimension {dimension} is not a positive number; take the id of gride, or d")
    farthest = np.maximum(neighbors.first(k).distances[:, -1], np.finfo(np.float64).eps)
    log_ball = dimension / 2 * log(pi) - lgamma(dimension / 2 + 1)
    return log(k) - log_ball - dimension * np.log(farthest) - log(neighbors.n)
