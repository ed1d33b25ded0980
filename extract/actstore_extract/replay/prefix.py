"""Keys and values of the slots that a replay does not run again."""

from typing import NoReturn

import torch

from actstore_extract.replay.errors import ReplayError

__all__ = ["Catch", "Caught", "Prefix"]


class _NotKnownError(ReplayError, AttributeError):
    """A block asks what stands for its cache for more than that has."""


class _Cache:
    """What a block is given in the place of its cache: it can be added to, and asked for nothing else."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _NotKnownError(
            f"its attention asks its cache for {name}, which no replay of some slots knows: replay whole forwards "
            "(--method full)"
        )


class Prefix(_Cache):
    """In the place of a cache: `past` slots in front of the `branches` of a pass, each of them the same n slots.

    `kept` are keys and values (1, key heads, past, d) of the prefix in one block, after rotation as attention gets
    them. Every branch sees the prefix, and none sees another: what masks cannot know, so they are made by `mask`.
    """

    def __init__(self, past: int, branches: int, n: int) -> None:
        self.past, self.branches, self.n = past, branches, n
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, ...]:
        """Keys and values of the prefix and, behind them, those of this pass."""
        if self.kept is None:
            return keys, values
        return tuple(
            torch.cat([held.to(new.dtype), new], 2) for held, new in zip(self.kept, (keys, values), strict=True)
        )

    def slots(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots of the queries and of the keys: those of a branch again for each."""
        assert n == self.branches * self.n
        queries = torch.arange(self.past, self.past + self.n).repeat(self.branches)
        return queries, torch.cat([torch.arange(self.past), queries])

    def mask(self, own: torch.Tensor | None) -> torch.Tensor | None:
        """The mask (1, 1, queries, keys) of all branches, from `own` (1, 1, n, past + n), the mask of one alone.

        None, both ways, stands for what attention does without a mask: a causal one.
        """
        if self.branches == 1:
            return own
        if own is None:
            queries, keys = self.slots(self.branches * self.n)
            own = (keys[: self.past + self.n] <= queries[: self.n, None])[None, None]
        hidden = False if own.dtype == torch.bool else torch.finfo(own.dtype).min
        whole = own.new_full((*own.shape[:2], self.branches * self.n, self.past + self.branches * self.n), hidden)
        for i in range(self.branches):
            rows = slice(i * self.n, (i + 1) * self.n)
            whole[..., rows, : self.past] = own[..., : self.past]
            whole[..., rows, self.past + rows.start : self.past + rows.stop] = own[..., self.past :]
        return whole


class Caught(Exception):  # noqa: N818
    """The keys and values that a block made: nothing more of its forward is wanted. A signal, not an error."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values


class Catch(_Cache):
    """In the place of a cache: ends a block's forward with Caught as soon as its keys and values are there."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: object, **__: object) -> None:
        raise Caught(keys, values)
