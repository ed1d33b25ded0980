"""Extraction as one rank of several, as torchrun starts it."""

import os
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from extracting import extract
from forked import processes


def start_rank(path: Path, rank: int, world: int, *changes: str) -> BaseProcess:
    """Begin one rank in a process of its own; it is running when this returns."""
    child = processes.Process(target=_alone, args=(path, rank, world, changes))
    child.start()
    return child


def _alone(path: Path, rank: int, world: int, changes: tuple[str, ...]) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    extract(path, *changes)
