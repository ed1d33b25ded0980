"""What can be measured on a scan without knowing its digit: ink, loops, slant, width."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Bounds", "bounds", "traits"]

INK_THRESHOLD = 5  # of 16: brighter than this is ink when holes are counted
ENLARGED = 3  # holes of one pixel survive the threshold only in an enlarged scan


@dataclass(frozen=True)
class Bounds:
    """The two values that cut ink, slant and width into thirds."""

    ink: tuple[float, float]
    slant: tuple[float, float]
    width: tuple[float, float]


def bounds(pixels: NDArray[np.float32]) -> Bounds:
    """Thirds of scans (n, 8, 8)."""
    ink, slant, width = (tuple(np.quantile(values, (1 / 3, 2 / 3)).tolist()) for values in measures(pixels))
    return Bounds(ink, slant, width)


def traits(pixels: NDArray[np.float32], bounds: Bounds) -> NDArray[np.int64]:
    """Ink, loops, slant and width of scans (n, 8, 8) as 0, 1 or 2: int (n, 4)."""
    ink, slant, width = measures(pixels)
    return np.stack(
        [
            np.digitize(ink, bounds.ink),
            np.array([loops(scan) for scan in pixels], dtype=np.int64),
            np.digitize(slant, bounds.slant),
            np.digitize(width, bounds.width),
        ],
        axis=1,
    )


def measures(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean ink, slant and horizontal spread of scans (n, 8, 8), each (n,); slant grows to the right."""
    rows, columns = np.mgrid[0:8, 0:8].astype(np.float64)
    mass = pixels.astype(np.float64) / np.maximum(pixels.sum(axis=(1, 2), dtype=np.float64), 1)[:, None, None]
    dy = rows - (mass * rows).sum(axis=(1, 2))[:, None, None]
    dx = columns - (mass * columns).sum(axis=(1, 2))[:, None, None]
    variance_y = np.maximum((mass * dy**2).sum(axis=(1, 2)), 1e-6)
    slant = -(mass * dx * dy).sum(axis=(1, 2)) / variance_y
    return pixels.mean(axis=(1, 2), dtype=np.float64), slant, np.sqrt((mass * dx**2).sum(axis=(1, 2)))


def loops(scan: NDArray[np.float32]) -> int:
    """Holes in one scan (8, 8), at most 2: patches of background that do not touch the border."""
    background = ndimage.zoom(scan, ENLARGED, order=2) < INK_THRESHOLD
    patches, n_patches = ndimage.label(background)
    border = np.concatenate([patches[0], patches[-1], patches[:, 0], patches[:, -1]])
    return min(2, int(n_patches) - len(np.unique(border[border > 0])))
