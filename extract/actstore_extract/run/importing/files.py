"""Files of arrays: .pt, .safetensors, .npy and .npz, of which nothing is run and no more is read than is used."""

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from actstore.errors import ActstoreError

__all__ = ["SUFFIXES", "Array", "flat", "load_torch", "read"]

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
    suffix = path.suffix
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


def load_torch(
    path: Path, classes: Mapping[str, Callable[..., Any]] | None = None, data: BinaryIO | None = None
) -> Any:
    """What torch saved, as `weights_only` reads it: tensors in containers, and instances of none but the classes named.

    classes: by their full names, what is made in their place. data: the bytes, where they are in no file of their own.
    Raises ActstoreError for anything else in it.
    """
    import torch

    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (made, name) for name, made in (classes or {}).items()
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            mapped = data is None and zipfile.is_zipfile(path)
            return torch.load(data or path, map_location="cpu", mmap=mapped, weights_only=True)
    except FileNotFoundError:
        raise ActstoreError(f"{path} does not exist") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        if found := re.search(r"GLOBAL ([\w.]+) was not an allowed global", str(error)):
            raise ActstoreError(
                f"{path} holds an object of {found[1]}, and to read that would be to run its code: save the tensors "
                "alone, torch.save({name: tensor, ...}, path) - of TransformerLens torch.save(cache.cache_dict, path)"
            ) from None
        said = str(error).partition("\n")[0]
        raise ActstoreError(
            f"{path}: cannot be read ({said}); perhaps its copy was cut, or it was not torch.save"
        ) from None


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
