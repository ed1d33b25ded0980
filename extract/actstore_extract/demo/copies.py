"""Distorted copies of training scans, and the pixel scale the models see."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from actstore_extract.samples.digits import Scans

__all__ = ["Copies", "copies", "pixel_values"]

DEGREES, SCALE, SHIFT, SHEAR = 12.0, 0.10, 0.7, 0.12


@dataclass(frozen=True)
class Copies:
    """Scans as drawn: `pixels` (n, 8, 8) in 0..16, `labels` (n,)."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]


def copies(scans: Scans, rows: NDArray[np.int64], n_copies: int, rng: np.random.Generator) -> Copies:
    """`n_copies` of each scan in `rows`, the first left as it is, the others turned, scaled, shifted and sheared."""
    pixels = torch.from_numpy(scans.pixels[rows].astype(np.float32))[:, None]
    drawn = [pixels]
    for _ in range(n_copies - 1):
        grid = F.affine_grid(distortions(len(rows), rng), [len(rows), 1, 8, 8], align_corners=False)
        drawn.append(F.grid_sample(pixels, grid, align_corners=False))
    return Copies(torch.cat(drawn)[:, 0].numpy(), np.tile(scans.labels[rows], n_copies))


def distortions(n: int, rng: np.random.Generator) -> torch.Tensor:
    """Random affine maps (n, 2, 3) in the units of `affine_grid`, where the image spans -1..1."""
    angle = np.deg2rad(rng.uniform(-DEGREES, DEGREES, n))
    scale = rng.uniform(1 - SCALE, 1 + SCALE, n)
    shear = rng.uniform(-SHEAR, SHEAR, n)
    shift = rng.uniform(-SHIFT, SHIFT, (n, 2)) / 4  # half the image is 4 pixels
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    first = np.stack([cos, shear * cos - sin, shift[:, 0]], axis=1)
    second = np.stack([sin, shear * sin + cos, shift[:, 1]], axis=1)
    return torch.from_numpy(np.stack([first, second], axis=1).astype(np.float32))


def pixel_values(pixels: NDArray[np.float32] | NDArray[np.uint8]) -> torch.Tensor:
    """What the image processors make of scans (n, 8, 8): float32 (n, 3, 8, 8) in -1..1, on 256 grey levels."""
    grey = np.rint(pixels.astype(np.float32) * (255 / 16)) / 127.5 - 1
    return torch.from_numpy(grey.astype(np.float32))[:, None].expand(-1, 3, -1, -1).contiguous()
