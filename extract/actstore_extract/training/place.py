"""Where a training runs: on one device, or under torchrun on one for each process."""

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from actstore_extract.families import LoadError
from actstore_extract.families.device import find_device

__all__ = ["place"]


def place(device: str) -> tuple[Accelerator, torch.device]:
    """The processes of a training, and the device of this one; LoadError where there is no such device.

    accelerate reads settings from the environment (ACCELERATE_...) that are not the recipe's: what decides what is
    learned is said here instead.
    """
    accelerator = Accelerator(
        cpu=device == "cpu" or (device == "auto" and not torch.cuda.is_available()),
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    found = find_device(device)
    if accelerator.num_processes == 1:
        return accelerator, found
    if found.index is not None:
        raise LoadError(f"{device} is one device for {accelerator.num_processes} processes: use {found.type}")
    if accelerator.device.type != found.type:
        raise LoadError(f"accelerate chose {accelerator.device}, not {device}: unset ACCELERATE_TORCH_DEVICE")
    return accelerator, accelerator.device
