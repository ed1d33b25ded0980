"""Devices that are not there: tensors on them compute on the CPU, and what mixes two of them fails as on real ones."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

KERNELS = torch.library.Library("aten", "IMPL")
HERE = -1  # the CPU
MOVES = ("aten::_to_copy", "aten::copy_")


@cache
def register() -> None:
    """Make the device type `far` known; it stays known, so that this is for a process of its own."""
    _setup_privateuseone_for_python_backend("far")
    for name, kernel in (("empty_strided", _empty), ("_copy_from", _copy)):  # what torch.tensor does, seen by no mode
        KERNELS.impl(name, kernel, "PrivateUse1")


def _empty(
    size: Sequence[int], stride: Sequence[int], *, dtype: torch.dtype, device: torch.device, **_: object
) -> "Far":
    return Far(torch.empty_strided(size, stride, dtype=dtype), device.index or 0)


def _copy(x: torch.Tensor, to: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _near(to).copy_(_near(x))
    return to


class Far(torch.Tensor):
    """A tensor on device far:INDEX, whose numbers are those of a tensor on the CPU."""

    @staticmethod
    def __new__(cls, near: torch.Tensor, index: int) -> "Far":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device("far", index),
        )

    def __init__(self, near: torch.Tensor, index: int) -> None:
        self.near, self.index = near, index

    def __format__(self, spec: str) -> str:  # a tensor of no axes would go on into numbers of its own kind for ever
        return format(self.near, spec)

    @classmethod
    def __torch_dispatch__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class FarAway(TorchDispatchMode):
    """Inside, the device can be computed on; RuntimeError for an operation on tensors of several devices."""

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def place(tensor: torch.Tensor) -> int:
    return tensor.index if isinstance(tensor, Far) else HERE


def run(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its result on the device where its arguments are or that it names."""
    name, device = function._schema.name, kwargs.get("device")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    places = {place(x) for x in tensors if isinstance(x, Far) or x.ndim}  # one number of the CPU may go anywhere
    if name not in MOVES and len(places) > 1:
        raise RuntimeError(f"{name}: tensors on devices {sorted(places)}")
    index = place(args[0]) if name == "aten::copy_" else max(places, default=HERE)
    if device is not None:
        index = (torch.device(device).index or 0) if torch.device(device).type == "far" else HERE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    out = function(*tree_map(_near, args), **tree_map(_near, kwargs))
    if name.endswith("_") and isinstance(args[0], Far):
        return args[0]
    return tree_map(lambda x: Far(x, index) if isinstance(x, torch.Tensor) and index != HERE else x, out)


def _near(x: Any) -> Any:
    return x.near if isinstance(x, Far) else x


def send(module: nn.Module, index: int) -> None:
    """Move all weights of a module to far:INDEX."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and not isinstance(weight, Far):
                part._parameters[name] = nn.Parameter(Far(weight.data, index), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, Far):
                part._buffers[name] = Far(buffer, index)
