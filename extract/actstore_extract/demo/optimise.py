"""The loop that trains the parts of the demo, all but the adapter: AdamW, warm-up, cosine."""

import math
import sys
import time
from collections.abc import Callable, Iterable

import torch

__all__ = ["optimise", "scaled"]

WARM_UP = 60
FLOOR = 0.03  # of the learning rate, reached at the last step


def optimise(
    name: str,
    parameters: Iterable[torch.nn.Parameter],
    loss_at: Callable[[int], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.1,
) -> None:
    """Lower `loss_at(step)` for `steps` steps; progress goes to stderr."""
    parameters = list(parameters)
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    began = time.monotonic()
    for step in range(steps):
        loss = loss_at(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49 or step == steps - 1:
            print(f"{name} {step + 1}/{steps} loss {loss.item():.3f} {time.monotonic() - began:.0f} s", file=sys.stderr)


def rate(step: int, steps: int) -> float:
    """Part of the learning rate used at a step: up in a line, down in half a cosine.

    >>> rate(0, 600), rate(59, 600), round(rate(600, 600), 2)
    (0.016666666666666666, 1.0, 0.03)
    """
    warm_up = min(WARM_UP, max(steps // 5, 1))
    if step < warm_up:
        return (step + 1) / warm_up
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1))) / 2


def scaled(steps: int, scale: float) -> int:
    """A step count for quick trials: never below 2.

    >>> scaled(500, 0.01), scaled(50, 0.01)
    (5, 2)
    """
    return max(2, round(steps * scale))
