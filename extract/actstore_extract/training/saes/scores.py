"""How well an autoencoder rebuilds vectors that it did not learn from."""

from typing import Any

import torch

__all__ = ["MASSIVE", "dead", "rebuilt", "standard"]

MASSIVE = 10  # times the mean magnitude of the average dimension: as actstore outliers has it
BATCH = 4096


def standard(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (d,) and standard deviation (d,) of vectors (n, d); 1 for a dimension that is the same in all."""
    spread, mean = torch.std_mean(x, 0)
    return mean, torch.where(spread > 0, spread, 1.0)


@torch.no_grad()
def rebuilt(sae: Any, x: torch.Tensor) -> dict[str, object]:
    """Of held-out vectors (n, d): features active in one on average, squared error over variance (FVU) with and without
    the massive dimensions, and which those are."""
    active, error = 0, torch.zeros(x.shape[1], dtype=torch.float64)
    for piece in torch.split(x, BATCH):
        features = sae.encode(piece)
        active += int((features > 0).sum())
        error += (sae.decode(features) - piece).double().square().sum(0).cpu()
    scatter = (x - x.mean(0)).double().square().sum(0).cpu()
    magnitude = x.abs().mean(0).cpu()
    massive = magnitude > MASSIVE * magnitude.mean()
    return {
        "l0": active / len(x),
        "fvu": float(error.sum() / scatter.sum()),
        "fvu_without_massive": float(error[~massive].sum() / scatter[~massive].sum()),
        "massive_dims": ",".join(map(str, massive.nonzero().flatten().tolist())),
    }


@torch.no_grad()
def dead(sae: Any, x: torch.Tensor) -> float:
    """The share of features that are active on none of the vectors (n, d)."""
    alive = torch.stack([(sae.encode(piece) > 0).any(0) for piece in torch.split(x, BATCH)]).any(0)
    return 1 - float(alive.float().mean())
