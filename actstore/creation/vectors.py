"""Vectors as they are handed in: tensors of torch or arrays of numpy. torch is met here, never imported."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.format.names import DTYPES, dtype_named

__all__ = ["dtype_of", "numbers"]

BITS = "bfloat16"  # whose bits are uint16 in numpy


def dtype_of(vectors: Any) -> str:
    """The number type of a tensor or an array by its name, as numpy and torch have it."""
    return str(getattr(vectors, "dtype", type(vectors).__name__)).removeprefix("torch.")


def numbers(vectors: Any, dtype: str | None, what: str) -> tuple[str, NDArray[np.generic]]:
    """The number type of a tensor or an array, and its numbers as the store holds them; they may be its own memory.

    dtype: what they are rounded to; without it their own is kept. uint16 of numpy are bits of bfloat16 where `dtype`
    says so. Raises ActstoreError for another type, and for what is no tensor or array.

    >>> numbers(np.array([[1.0, -2.5]], np.float32), "bfloat16", "x")
    ('bfloat16', array([[16256, 49184]], dtype=uint16))
    """
    own = dtype_of(vectors)
    if own == "uint16" and dtype == BITS:
        own = BITS
    if own not in DTYPES and not (own == "float64" and dtype):
        remedies = {"float64": "round them: dtype='float32'", "uint16": "of bits of bfloat16 say so: dtype='bfloat16'"}
        remedy = remedies.get(own, "give a tensor or an array of floats")
        raise ActstoreError(f"{what}: numbers are of type {own}, and a store holds {', '.join(DTYPES)}; {remedy}")
    kept = dtype_named(dtype or own)
    found = _of_torch(vectors, own) if hasattr(vectors, "detach") else np.asarray(vectors)
    if own == BITS:
        found = found.view(np.uint16) if kept.name == BITS else DTYPES[BITS].decode(found.view(np.uint16))
    return kept.name, kept.encode(found)


def _of_torch(tensor: Any, own: str) -> NDArray[np.generic]:
    """The numbers of a tensor, on the CPU; of bfloat16 its bits, as int16."""
    plain = tensor.detach().to("cpu").contiguous()
    found: NDArray[np.generic] = (plain.view(sys.modules["torch"].int16) if own == BITS else plain).numpy()
    return found
