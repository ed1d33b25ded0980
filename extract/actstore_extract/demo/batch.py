"""Rows of token ids as tensors."""

import torch

__all__ = ["padded"]


def padded(rows: list[list[int]], *, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, t) filled up at the end, and the token that follows each (n, t), -100 where none does.

    >>> padded([[5, 6, 7], [8]], pad=0)
    (tensor([[5, 6, 7],
            [8, 0, 0]]), tensor([[   6,    7, -100],
            [-100, -100, -100]]))
    """
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    targets = torch.tensor([row[1:] + [-100] * (width - len(row) + 1) for row in rows])
    return ids, targets
