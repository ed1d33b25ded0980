"""Format 1: names, numbers and number types, as FORMAT.md states them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from actstore.errors import ActstoreError, nearest

FORMAT = 1
PICTURED = 2  # the format of a store whose samples may have several pictures
OWNED = 3  # of one whose rows have columns of a user's own

HEADER = "actstore.json"
PLAN = "plan.parquet"
VOCABULARY = "vocab.parquet"
INDEX = "index.duckdb"
CHECKPOINT = "commits.checkpoint"
TABLES = "tables.tar"
PARTS = "parts"
COMMITS = "commits"
RESULTS = "results"

CHUNK_BYTES = 2**20
SHARD_BYTES = 2**27
RECORD_BYTES = 2**26
WIDEST = 100_000  # features of a vector; DuckDB has no wider arrays
PART_SAMPLES = 2048
LAST_BATCH = 99_999_999  # eight digits in the names of parts and records

PART_NAME = re.compile(r"[bc]\d{8}-[0-9a-f]{8}")
COMMIT_NAME = re.compile(r"[bc]\d{8}\.json")  # b: of a batch; c: of a compaction
FILE_NAME = re.compile(r"(?:[a-zA-Z0-9][a-zA-Z0-9_.-]*/)*[a-zA-Z0-9][a-zA-Z0-9_.-]*")
ROLE_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
ARRAY_NAME = re.compile(rf"(?:residual|keys|values|attention)/{ROLE_NAME.pattern}")
COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class DType:
    """A number type of format 1: how it lies on disk and which bit pattern is its NaN."""

    name: str
    stored: np.dtype[np.generic]
    fill: int | float
    encode: Callable[[NDArray[np.generic]], NDArray[np.generic]]
    decode: "Decode"
    is_finite: Callable[[NDArray[np.generic]], NDArray[np.bool_]]  # of numbers as stored


class Decode(Protocol):
    """Stored numbers as float32, into `out` if that is given."""

    def __call__(
        self, stored: NDArray[np.generic], out: NDArray[np.float32] | None = None, /
    ) -> NDArray[np.float32]: ...


def to_bfloat16(values: NDArray[np.generic]) -> NDArray[np.uint16]:
    """Floats as bfloat16 bit patterns, rounded to nearest even; uint16 is taken as bit patterns already.

    >>> [hex(bits) for bits in to_bfloat16(np.array([1.0, -2.5, np.nan], np.float32))]
    ['0x3f80', '0xc020', '0x7fc0']
    """
    if values.dtype == np.uint16:
        return values.view(np.uint16)
    _check_floats(values)
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which the writer refuses by name
        wide = np.ascontiguousarray(values, dtype=np.float32)
    bits = wide.view(np.uint32)
    carry = bits >> 16  # in place from here: this is the longest step of writing float32
    carry &= 1
    carry += 0x7FFF
    carry += bits
    carry >>= 16
    rounded = carry.astype(np.uint16)
    rounded[np.isnan(wide)] = 0x7FC0
    return rounded


def from_bfloat16(bits: NDArray[np.generic], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """bfloat16 bit patterns as float32, exactly; into `out` if that is given.

    >>> from_bfloat16(np.array([0x3F80, 0xC020], np.uint16))
    array([ 1. , -2.5], dtype=float32)
    """
    found = np.empty(bits.shape, np.float32) if out is None else out
    wide = found.view(np.uint32)
    wide[...] = bits
    wide <<= 16
    return found


def _is_finite_bfloat16(bits: NDArray[np.generic]) -> NDArray[np.bool_]:
    """inf and NaN have all bits of the exponent."""
    exponent = np.uint16(0x7F80)
    found: NDArray[np.bool_] = (bits.view(np.uint16) & exponent) != exponent
    return found


def _to(dtype: DTypeLike) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
    def encode(values: NDArray[np.generic]) -> NDArray[np.generic]:
        _check_floats(values)
        with np.errstate(over="ignore"):  # overflow becomes inf, which the writer refuses by name
            return values.astype(dtype, copy=False)

    return encode


def _check_floats(values: NDArray[np.generic]) -> None:
    """Integers are refused: they are mostly bit patterns of bfloat16, which only a bfloat16 array takes."""
    if values.dtype.kind != "f":
        raise ActstoreError(f"an array of {values.dtype}: give floats, or bfloat16 bits (uint16) to a bfloat16 store")


def _float32(values: NDArray[np.generic], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    if out is None:
        return values.astype(np.float32, copy=False)
    out[...] = values
    return out


DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType("bfloat16", np.dtype("uint16"), 0x7FC0, to_bfloat16, from_bfloat16, _is_finite_bfloat16),
        DType("float16", np.dtype("float16"), float("nan"), _to(np.float16), _float32, np.isfinite),
        DType("float32", np.dtype("float32"), float("nan"), _to(np.float32), _float32, np.isfinite),
    )
}


def dtype_named(name: str) -> DType:
    """The number type called `name`; raises ActstoreError for one that format 1 does not have."""
    if name not in DTYPES:
        raise ActstoreError(f"dtype '{name}' is not one of {', '.join(DTYPES)}{nearest(name, list(DTYPES))}")
    return DTYPES[name]
