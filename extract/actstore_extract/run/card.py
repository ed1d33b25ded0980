"""The run card: everything that says who produced a store, and how another run differs from it."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

__all__ = ["flat", "made_on"]

PACKAGES = ("actstore", "torch", "transformers", "numpy", "zarr")


def made_on(device: torch.device) -> dict[str, Any]:
    """What numbers depend on besides the recipe: the device in words, and the versions of Python and packages."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
    return {
        "device": name,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that decide what is stored; the text about the recipe does not."""
    sections = {name: value for name, value in recipe.items() if isinstance(value, dict)}
    plain = {name: value for name, value in recipe.items() if name not in sections and name not in ("about", "name")}
    return {**plain, **{f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}}
