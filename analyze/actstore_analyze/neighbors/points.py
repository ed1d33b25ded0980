"""Points (n, d) as they are searched: finite, of a moderate size, around a centre."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError, UndefinedError
from actstore.errors import nearest as did_you_mean
from actstore_analyze.neighbors.neighbors import Floats

__all__ = [
    "METRICS",
    "Points",
    "centre_of",
    "centred_at",
    "check_directed",
    "check_finite",
    "moderate",
    "parse",
    "scale_of",
    "scaled",
    "tie_of",
]

Points = NDArray[np.float32] | NDArray[np.float64]

# Each metric is a function of the euclidean distance, between unit vectors for all but the first.
METRICS: dict[str, Callable[[Floats], Floats]] = {
    "euclidean": lambda distances: distances,
    "normalised": lambda distances: distances,
    "cosine": lambda distances: distances**2 / 2,  # 1 - cos = chord^2 / 2, without its cancellation
}
_UNIT_TIE = 64 * float(np.finfo(np.float64).eps)  # unit vectors are rounded: distances this close are equal
_SAMPLE = 512  # points that say where the others are
_MODERATE = 2.0**50  # squares of such values, summed over a million dimensions, are far from the limits of float32


def parse(x: NDArray[np.number], metric: str = "euclidean") -> Points:
    """Points (n, d) as contiguous float32 or float64, finite; unit vectors in float64 for all but euclidean.

    >>> parse(np.array([[3, 4]]), "cosine").tolist()
    [[0.6, 0.8]]
    """
    if metric not in METRICS:
        raise ActstoreError(
            f"metric {metric!r} is not one of {', '.join(METRICS)}{did_you_mean(metric, list(METRICS))}"
        )
    points = np.asarray(x)
    if points.ndim != 2 or points.shape[1] == 0 or points.dtype.kind not in "fiu":
        raise ActstoreError(f"points must be numbers of shape (n, d), got {points.dtype} of shape {points.shape}")
    kind = np.float32 if points.dtype in (np.float16, np.float32) else np.float64
    points = np.ascontiguousarray(points, dtype=kind)
    finite = np.isfinite(points).all(axis=1)
    check_finite(finite)
    return points if metric == "euclidean" else _unit(points)


def check_finite(finite: NDArray[np.bool]) -> None:
    """Raise ActstoreError unless all points (n,) are."""
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise ActstoreError(
            f"row {bad} holds NaN or infinity ({int((~finite).sum())} of {len(finite)} rows do); leave them out"
        )


def check_directed(largest: NDArray[np.floating]) -> None:
    """Raise UndefinedError for points without a direction, of which the largest value (n,) is 0."""
    if not largest.all():
        zeros = np.flatnonzero(largest == 0)
        raise UndefinedError(
            f"row {zeros[0]} is a zero vector ({len(zeros)} of {len(largest)} rows are) and has no direction; "
            "leave them out or use the euclidean metric"
        )


def _unit(points: Points) -> Floats:
    """Rows divided by their norms, in float64."""
    largest = np.abs(points).max(axis=1, initial=0)
    check_directed(largest)
    unit: Floats = np.ldexp(points.astype(np.float64), -np.frexp(largest)[1][:, None])
    unit /= np.sqrt(np.einsum("nd,nd->n", unit, unit))[:, None]
    return unit


def tie_of(metric: str) -> float:
    """How far apart distances of a metric may be that are equal."""
    return 0.0 if metric == "euclidean" else _UNIT_TIE


def moderate(points: Points) -> tuple[Points, float]:
    """Points divided by a power of two if their squares would come near the limits of float32, and that power."""
    scale = scale_of(float(max(points.max(initial=0), -points.min(initial=0))))
    return scaled(points, scale), scale


def scale_of(size: float) -> float:
    """The power of two by which points of that size, their largest value, are divided."""
    if size == 0 or 1 / _MODERATE < size < _MODERATE:
        return 1.0
    return 2.0 ** (int(np.frexp(size)[1]) - 1)


def scaled(points: Points, scale: float) -> Points:
    """Points divided by a power of two, in float64 unless it is 1."""
    return points if scale == 1 else points / np.float64(scale)


def centre_of(points: Points) -> Floats:
    """The mean of the typical points of a sample: a few massive ones must not move it far from the rest."""
    sample = points[:: -(-len(points) // _SAMPLE)].astype(np.float64)
    away = np.linalg.norm(sample - np.median(sample, axis=0), axis=1)
    centre: Floats = sample[away <= 4 * np.median(away)].mean(axis=0)
    return centre


def centred_at(points: Points, centre: Floats) -> NDArray[np.float32]:
    """Points minus the centre: massive dimensions left in would take the digits of all others in float32."""
    if points.dtype == np.float32:
        return np.subtract(points, centre.astype(np.float32))
    centred = np.empty(points.shape, np.float32)
    return np.subtract(points, centre, out=centred, casting="same_kind")
