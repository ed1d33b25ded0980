"""The device that a model runs on, by its name."""

import torch

from actstore_extract.families.errors import LoadError

__all__ = ["find_device"]


def find_device(name: str) -> torch.device:
    """The device of that name; for auto a GPU, if there is one. LoadError where there is no such device.

    >>> find_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # how torch says that there is no such device
        line = str(error).splitlines()[0]
        raise LoadError(f"no device {name!r} here: {line}; use cpu, cuda, cuda:1 or auto") from error
    return device
