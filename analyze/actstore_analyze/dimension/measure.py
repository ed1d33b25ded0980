"""Intrinsic dimension of points by the ratios of their neighbour distances (Gride)."""

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import brentq

from actstore.errors import ActstoreError
from actstore_analyze.neighbors import Neighbors, nearest

__all__ = ["gride", "gride_from"]

Floats = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
_SMALLEST, _LARGEST = 1e-3, 1e3  # dimensions looked for


def gride(
    x: NDArray[np.number],
    *,
    range_max: int = 128,
    metric: str = "euclidean",
    groups: NDArray[np.integer] | None = None,
) -> pl.DataFrame:
    """Intrinsic dimension of points x (n, d) at growing scales: one row for each rank 2, 4, 8, ... range_max.

    rank: the farther of the two neighbours compared, the nearer being at half of it; id: the dimension,
    by maximum likelihood; error: its standard error; distance: mean distance of the two neighbours.
    id and error are null at a scale where (nearly) all points coincide. Ranks end at n - 1.
    groups (n,): points of one group are never each other's neighbours.
    Denti, Doimo, Laio, Mira, "The generalized ratios intrinsic dimension estimator" (2022), as DADApy computes it.
    Raises ActstoreError where `nearest` does.

    >>> plane = np.random.default_rng(0).random((500, 2)) @ np.ones((2, 9))
    >>> gride(plane, range_max=4)["rank"].to_list()
    [2, 4]
    """
    return gride_from(nearest(x, max(1, min(range_max, len(x) - 1)), metric=metric, groups=groups), range_max)


def gride_from(neighbors: Neighbors, range_max: int = 128) -> pl.DataFrame:
    """As `gride`, from neighbours found before, up to the rank they reach.

    >>> found = nearest(np.random.default_rng(0).random((500, 1)), 16)
    >>> gride_from(found).filter(rank=16).select(pl.col("id").round(1)).item()
    1.0
    """
    known = neighbors.distances.shape[1]
    if min(range_max, known) < 2:
        raise ActstoreError(
            f"ranks up to {range_max} of {known} known neighbours: Gride compares ranks 1 and 2 at least"
        )
    distances = np.maximum(neighbors.distances, _EPS)
    ranks = [2**i for i in range(1, min(range_max, known).bit_length())]
    return pl.DataFrame(
        [_scale(distances[:, rank // 2 - 1], distances[:, rank - 1], rank) for rank in ranks],
        schema={"rank": pl.Int64, "id": pl.Float64, "error": pl.Float64, "distance": pl.Float64},
    )


def _scale(near: Floats, far: Floats, rank: int) -> dict[str, float | None]:
    """The row of one rank, from the distances (n,) of the neighbours at half the rank and at the rank."""
    ratios = np.maximum(far / near, 1 + 10 * _EPS)
    dimension = _likeliest(ratios, rank)
    error = None if dimension is None else _error(ratios, rank, dimension)
    return {"rank": rank, "id": dimension, "error": error, "distance": float(np.mean([near.mean(), far.mean()]))}


def _likeliest(ratios: Floats, rank: int) -> float | None:
    """The dimension that makes the ratios likeliest, extreme ones left out."""
    middle, high = np.percentile(ratios, [50, 95])
    logs = np.log(ratios[ratios < middle + 20 * (high - middle)])

    def slope(dimension: float) -> float:
        """Derivative of the log-likelihood."""
        missing = np.maximum(-np.expm1(-dimension * logs), 2e-7)
        between = (rank // 2 - 1) * np.sum(logs / missing)
        return float((len(logs) - 1) / dimension + between - (rank - 1) * logs.sum())

    if len(logs) < 2 or slope(_LARGEST) >= 0 or slope(_SMALLEST) <= 0:
        return None
    return float(brentq(slope, _SMALLEST, _LARGEST, xtol=1e-9))


def _error(ratios: Floats, rank: int, dimension: float) -> float:
    """Standard error by the Fisher information of all ratios."""
    logs = np.log(ratios)
    missing = np.maximum(-np.expm1(-dimension * logs), 5 * _EPS)
    between = (rank // 2 - 1) * np.sum((logs / missing) ** 2 * np.exp(-dimension * logs))
    return float((len(ratios) / dimension**2 + between) ** -0.5)
