"""What torch saved: tensors in containers; none of a file's code is run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from actstore.errors import ActstoreError

__all__ = ["load_torch"]

OBJECT = re.compile(r"GLOBAL ([\w.]+)")
PICKLE = b"\x80"  # how one begins, of any protocol that torch ever wrote
ALONE = "save the tensors alone, torch.save({name: tensor, ...}, path)"


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
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            mapped = data is None and zipfile.is_zipfile(path)
            return torch.load(data or path, map_location="cpu", mmap=mapped, weights_only=True)
    except FileNotFoundError:
        raise ActstoreError(f"{path} does not exist") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        if found := OBJECT.search(str(error)):
            raise ActstoreError(
                f"{path} holds an object of {found[1]}, and to read that would be to run its code: {ALONE} - of "
                "TransformerLens torch.save(cache.cache_dict, path)"
            ) from None
        if "Unsupported operand" in str(error) and _begins(path, data) == PICKLE:
            raise ActstoreError(f"{path} is a pickle that torch did not save, which may run code: {ALONE}") from None
        raise ActstoreError(f"{path}: cannot be read: its copy was cut, or it is no file of torch.save") from None


def _begins(path: Path, data: BinaryIO | None) -> bytes:
    if data is None:
        with path.open("rb") as file:
            return file.read(1)
    data.seek(0)
    return data.read(1)
