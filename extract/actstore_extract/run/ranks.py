"""Ranks: the processes that torchrun starts, each with a share of the batches and a GPU of its own."""

import os
from collections.abc import Mapping, Sequence

import torch

from actstore.errors import ActstoreError

__all__ = ["RankError", "device_of", "share"]


class RankError(ActstoreError):
    """Several processes were started where one is wanted."""


def share(numbers: Sequence[int]) -> list[int]:
    """Batches of this rank: under torchrun each takes its share, alone it takes all."""
    world, rank = _said("WORLD_SIZE", 1), _said("RANK", 0)
    return [number for number in numbers if number % world == rank]


def device_of(asked: str, device_map: str | Mapping[str, int | str] | None = None) -> str:
    """The device for `asked`: beside other processes of this machine, a GPU without a number is this rank's own.

    Raises RankError where a device map would give each of several processes all GPUs.
    """
    beside = _said("LOCAL_WORLD_SIZE", 1)
    if device_map is not None and beside > 1:
        raise RankError(
            f"device_map = {device_map!r} spreads a model over the GPUs of a machine, and {beside} processes run on "
            "this one: start one process for each machine, or leave device_map out"
        )
    n_gpus = torch.cuda.device_count() if asked in ("auto", "cuda") else 0
    return f"cuda:{_said('LOCAL_RANK', 0) % n_gpus}" if n_gpus and beside > 1 else asked


def _said(name: str, default: int) -> int:
    return int(os.environ.get(name, default))
