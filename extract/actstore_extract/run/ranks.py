"""Ranks: the processes of one run, each with a share of the batches and a GPU of its own."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from actstore.errors import ActstoreError

__all__ = ["RankError", "Share", "check_alone", "device_of", "share_of"]

# Names by which a starter of processes says which of how many this one is, on all machines and on this one.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
MPICH = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
SLURM_STEP = "a Slurm step"


class RankError(ActstoreError):
    """Where this process stands among others cannot be known, or several were started where one is wanted."""


@dataclass(frozen=True)
class Share:
    """The `number`-th of `of` equal shares of a run, counted from 1; `by` says who gave it.

    together: one of the processes of torchrun, MPI or a Slurm step, which may all be ended when one ends by a status.
    """

    number: int = 1
    of: int = 1
    by: str = ""
    together: bool = False

    def __str__(self) -> str:
        return f"share {self.number} of {self.of} ({self.by})"

    def own(self, batches: Sequence[int]) -> list[int]:
        """The batches of this share, in their order."""
        return [batch for batch in batches if batch % self.of == self.number - 1]

    def others(self, batches: Sequence[int]) -> list[int]:
        """Those of all other shares: last first, from another one on for each share."""
        left = [batch for batch in reversed(batches) if batch % self.of != self.number - 1]
        first = (self.number - 1) % max(len(left), 1)
        return left[first:] + left[:first]


class _Place(NamedTuple):
    """Which process of how many this is, on all machines and on this one."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    by: str = ""


def share_of(asked: str | None = None) -> Share:
    """What this process takes: `asked`, such as "3/16", else its place under torchrun, MPI, a Slurm step or job array.

    Processes of one task of a job array part the share of that task. Raises RankError where `asked` is no share, where
    all processes that torchrun or MPI started would take it, and for variables that contradict each other.
    """
    place, (index, of) = _place(), _array_task()
    if asked is not None:
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", asked)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise RankError(f"--share '{asked}' is no share: the third of sixteen is 3/16")
        if place.world > 1 and place.by != SLURM_STEP:
            raise RankError(
                f"--share {asked} beside {place.world} processes of {place.by}: all of them would take it; leave it "
                "out, or start one process for each share"
            )
        return Share(int(found[1]), int(found[2]), "--share")
    by = " in ".join(filter(None, [place.by, f"a job array of {of}" if of > 1 else ""]))
    return Share(index * place.world + place.rank + 1, of * place.world, by, together=place.world > 1)


def check_alone(n: int, device_map: str | Mapping[str, int | str] | None) -> None:
    """Raise RankError where `n` processes cannot be started: some were, or a device map would give each all GPUs."""
    place = _place()
    if place.local_world > 1:
        raise RankError(
            f"--devices {n} in one of {place.local_world} processes that {place.by} started on this machine: leave it "
            "out, or start one process for each machine"
        )
    if device_map is not None:
        raise RankError(
            f"device_map = {device_map!r} spreads a model over the GPUs of a machine, and --devices {n} are as many "
            "models: leave one of them out"
        )


def device_of(asked: str, device_map: str | Mapping[str, int | str] | None = None) -> str:
    """The device for `asked`: beside other processes of this machine, a GPU without a number is this rank's own.

    Raises RankError where a device map would give each of several processes all GPUs.
    """
    place = _place()
    if device_map is not None and place.local_world > 1:
        raise RankError(
            f"device_map = {device_map!r} spreads a model over the GPUs of a machine, and {place.local_world} "
            "processes run on this one: start one process for each machine, or leave device_map out"
        )
    n_gpus = torch.cuda.device_count() if asked in ("auto", "cuda") else 0
    return f"cuda:{place.local_rank % n_gpus}" if n_gpus and place.local_world > 1 else asked


def _place() -> _Place:
    """Where this process stands among those that were started together; alone where nobody says."""
    said = [_named("torchrun", TORCHRUN), _named("OpenMPI", OPEN_MPI), _step(), _named("MPICH", MPICH)]
    found = next((place for place in said if place.world > 1), _Place())
    if not 0 <= found.rank < found.world:
        raise RankError(f"process {found.rank} of {found.world}, says {found.by}: there is none; they count from 0")
    return found


def _named(by: str, names: Sequence[str]) -> _Place:
    rank, world, local_rank, local_world = names
    if rank not in os.environ and _said(world, 1) > 1:
        raise RankError(f"{world} = {os.environ[world]} without {rank}: which process this is is not said; set {rank}")
    return _Place(_said(rank, 0), _said(world, 1), _said(local_rank, 0), _said(local_world, 1), by)


def _step() -> _Place:
    """A batch script is in no step: it has SLURM_NTASKS too, which says how many a step would have."""
    if "SLURM_STEP_ID" not in os.environ and not _said("SLURM_PROCID", 0):
        return _Place()
    world = _said("SLURM_STEP_NUM_TASKS", _said("SLURM_NTASKS", 1))
    return _Place(_said("SLURM_PROCID", 0), world, _said("SLURM_LOCALID", 0), _tasks_here(world), SLURM_STEP)


def _tasks_here(world: int) -> int:
    """Tasks of the step on this machine, from a list such as "4(x2),3", one number for each machine."""
    listed = os.environ.get("SLURM_STEP_TASKS_PER_NODE", str(world if _said("SLURM_NNODES", 1) == 1 else 1))
    counts: list[int] = []
    for found in re.finditer(r"(\d+)(?:\(x(\d+)\))?", listed):
        counts += [int(found[1])] * int(found[2] or 1)
    node = _said("SLURM_NODEID", 0)
    return counts[node] if node < len(counts) else 1


def _array_task() -> tuple[int, int]:
    """Which task of how many in a job array, counted from 0.

    Slurm says the smallest and the largest id, their step and how many there are, not which. Where ids are missing in
    between, as when some tasks are queued again, the missing ones count: what they would have taken is left over.
    """
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        return 0, 1
    task = _said("SLURM_ARRAY_TASK_ID", 0)
    first, last = _said("SLURM_ARRAY_TASK_MIN", task), _said("SLURM_ARRAY_TASK_MAX", task)
    step, count = max(_said("SLURM_ARRAY_TASK_STEP", 1), 1), _said("SLURM_ARRAY_TASK_COUNT", 1)
    if count == 2:
        step = max(last - first, 1)
    if (last - first) // step + 1 != count:
        step = 1
    if not first <= task <= last or (task - first) % step:
        raise RankError(
            f"task {task} of a job array from {first} to {last} in steps of {step}: there is no such task; say --share"
        )
    return (task - first) // step, (last - first) // step + 1


def _said(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise RankError(f"{name} = '{os.environ[name]}' is no number; set it or unset it") from None
