"""Files of arrays: .pt, .safetensors, .npy and .npz, of which nothing is run and no more is read than is used."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actstore.errors import ActstoreError
from actstore.format.given import suffix_of
from actstore_extract.saved import load_torch

__all__ = ["SUFFIXES", "Array", "flat", "read"]

Array = Any  # a tensor of torch or an array of numpy, mapped where that can be done
SUFFIXES = {
    "pt": (".pt", ".pth", ".bin", ".ckpt"),
    "npy": (".npy", ".npz"),
    "safetensors": (".safetensors",),
}


def read(path: Path) -> dict[str | None, Array]:
    """The arrays in a file by their keys, flat; one without a key is under None.

    Raises ActstoreError for a file that is cut, or holds what is no plain array.
    """
    suffix = suffix_of(path)
    if suffix in SUFFIXES["pt"]:
        return flat(load_torch(path), path)
    try:
        if suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no mapping)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        return {None: found} if isinstance(found, np.ndarray) else dict(found)
    except FileNotFoundError:
        raise ActstoreError(f"{path} does not exist") from None
    except (ValueError, EOFError, zipfile.BadZipFile, _safetensor_error()) as error:
        raise ActstoreError(f"{path}: cannot be read ({error}); perhaps its copy was cut") from None


def flat(held: Any, path: Path) -> dict[str | None, Array]:
    """The tensors in nested containers by their keys, joined by dots: hidden_states.3."""
    found: dict[str | None, Array] = dict(_tensors(held, ""))
    if "" in found:
        return {None: found[""]}
    if not found:
        raise ActstoreError(f"{path} holds no tensors, but {type(held).__name__}")
    return found


def _tensors(held: Any, name: str) -> Iterator[tuple[str, Array]]:
    if hasattr(held, "detach"):
        yield name, held
        return
    inside = held.items() if isinstance(held, Mapping) else enumerate(held) if isinstance(held, list | tuple) else ()
    for key, value in inside:
        yield from _tensors(value, f"{name}.{key}" if name else str(key))


def _safetensor_error() -> type[Exception]:
    try:
        from safetensors import SafetensorError
    except ModuleNotFoundError:
        return ValueError
    return SafetensorError
