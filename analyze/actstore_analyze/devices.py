"""Devices: where measures compute their products, numpy on a CPU, or PyTorch on a GPU that is asked for."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.handing import how_to_install

__all__ = ["CPU", "HOST", "Device", "checked", "enough_memory", "named", "opened"]

CPU = "cpu"
GPU = re.compile(r"cuda(?::(?P<number>\d+))?")
REMEDY = "leave --device out, and the CPU does it"
PROBE = 256  # rows and columns of a product that tells TF32 from float32


class Device(Protocol):
    """Where arrays are. `xp` has the functions that measures call on them, by numpy's names: numpy or torch."""

    @property
    def name(self) -> str:
        """`cpu`, or PyTorch's name of it."""

    @property
    def xp(self) -> Any:
        """numpy, or torch."""

    def put(self, x: NDArray[Any], /) -> Any:
        """The array there, of the same numbers and type."""

    def get(self, x: Any, /) -> NDArray[Any]:
        """What is there as numpy has it."""

    def wide(self, x: Any, /) -> Any:
        """What is there in float64, there."""


class Host:
    """The CPU, with numpy."""

    name = CPU
    xp: Any = np

    def put(self, x: NDArray[Any], /) -> NDArray[Any]:
        """The array itself."""
        return x

    def get(self, x: NDArray[Any], /) -> NDArray[Any]:
        """The array itself."""
        return x

    def wide(self, x: NDArray[Any], /) -> NDArray[np.float64]:
        """See Device."""
        return x.astype(np.float64)


HOST = Host()


@dataclass(frozen=True)
class Torch:
    """A device of PyTorch's, by its name: `cuda`, `cuda:1`; `cpu` in tests."""

    name: str

    @property
    def xp(self) -> Any:
        """torch."""
        import torch

        return torch

    def put(self, x: NDArray[Any], /) -> Any:
        """See Device."""
        return self.xp.from_numpy(np.require(x, requirements=("C", "W"))).to(self.name)

    def get(self, x: Any, /) -> NDArray[Any]:
        """See Device."""
        found: NDArray[Any] = x.cpu().numpy()
        return found

    def wide(self, x: Any, /) -> Any:
        """See Device."""
        return x.double()


def checked(name: str) -> str:
    """The name of a device that is there: `cpu`, `cuda` or `cuda:N`; ActstoreError with what to do for any other."""
    match = GPU.fullmatch(name)
    if name == CPU:
        return name
    if match is None:
        raise ActstoreError(f"'{name}' is no device: cpu, cuda, or cuda:N, one of several GPUs")
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ActstoreError(f"--device {name} needs {how_to_install(error)}; or {REMEDY}") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ActstoreError(
            f"--device {name}: torch {torch.__version__} finds no GPU here (torch.cuda.is_available() is false): "
            f"{REMEDY}, or install torch for CUDA"
        )
    if int(match["number"] or 0) >= count:
        raise ActstoreError(f"--device {name}: there is none; this machine has cuda:0 to cuda:{count - 1}")
    return name


def opened(name: str) -> Device:
    """The device of a name that was `checked`, whose products of float32 are float32's and no less.

    It is looked at each time, since a program may let PyTorch take TF32 in between; it is switched off, and stays so.
    ActstoreError for a GPU that rounds the factors to TF32 though it is told not to.
    """
    if name == CPU:
        return HOST
    import torch

    torch.set_float32_matmul_precision("highest")
    x = torch.full((PROBE, PROBE), 1 + 2.0**-12, device=name)  # of which TF32, with 10 bits, keeps 1
    if not torch.equal(x @ torch.eye(PROBE, device=name), x):
        raise ActstoreError(
            f"--device {name} rounds products to TF32, three digits of seven, whatever it is told: unset "
            "NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
        )
    return Torch(name)


def named(name: str) -> str:
    """A device as results say it, with the kind of GPU: `cuda (NVIDIA H200)`."""
    if name == CPU:
        return name
    import torch

    return f"cuda ({torch.cuda.get_device_name(name)})"


@contextmanager
def enough_memory(name: str) -> Iterator[None]:
    """Inside, a device without enough memory is an ActstoreError that says so."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        said = str(error).partition(". GPU")[0]
        raise ActstoreError(f"--device {name}: its memory is too small for this ({said}): {REMEDY}") from None
