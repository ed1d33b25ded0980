"""The lens of a store: the model's final norm and unembedding, which turn vectors of the stream into logits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError, CorruptError
from actstore.format.names import dtype_named, from_bfloat16

__all__ = ["FILES", "FOLDER", "Lens", "Numbers", "Optics"]

FOLDER = "lens"
NORM, BIAS, UNEMBEDDING = FILES = ("lens/norm.bin", "lens/bias.bin", "lens/unembedding.bin")
NORMS = ("rmsnorm", "layernorm")
MOST_TOKENS = 10_000_000
BLOCK_BYTES = 2**25  # of the unembedding, as float32, decoded at a time

Floats = NDArray[np.float32]


class Numbers(msgspec.Struct, frozen=True):
    """The optics of a lens as the header has them."""

    norm: str
    eps: float
    n_tokens: int
    scale: float
    softcap: float | None


@dataclass(frozen=True)
class Optics:
    """The numbers of a lens that are no arrays: the kind of norm with its epsilon, and what happens to the logits.

    scale: logits are multiplied by it; softcap: then bent to stay between -softcap and softcap; n_tokens: their number.
    """

    norm: str
    eps: float
    n_tokens: int
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ActstoreError(f"norm '{self.norm}' of a lens is not one of {', '.join(NORMS)}")
        if not 1 <= self.n_tokens <= MOST_TOKENS:
            raise ActstoreError(f"a lens of {self.n_tokens} tokens; it has 1 to {MOST_TOKENS}")
        if not (math.isfinite(self.scale) and self.scale and math.isfinite(self.eps) and self.eps >= 0):
            raise ActstoreError(f"a lens with scale {self.scale} and eps {self.eps}")
        if self.softcap is not None and not (math.isfinite(self.softcap) and self.softcap > 0):
            raise ActstoreError(f"a lens with softcap {self.softcap}")

    @classmethod
    def of(cls, numbers: Numbers) -> "Optics":
        """From the header; raises ActstoreError for what no lens has."""
        return cls(**msgspec.structs.asdict(numbers))

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "norm": self.norm,
            "eps": self.eps,
            "n_tokens": self.n_tokens,
            "scale": self.scale,
            "softcap": self.softcap,
        }

    def sizes(self, d_model: int, dtype: str) -> dict[str, int]:
        """Bytes of each file."""
        itemsize = dtype_named(dtype).stored.itemsize
        return {NORM: 8 * d_model, BIAS: 4 * self.n_tokens, UNEMBEDDING: self.n_tokens * d_model * itemsize}


@dataclass(frozen=True, eq=False)
class Lens:
    """Optics with their arrays.

    weight and shift (d,): what the norm multiplies with, and adds; bias (tokens,): added to the logits, -inf for tokens
    that the model never says; unembedding (tokens, d): floats, or bit patterns of bfloat16 as uint16.
    """

    optics: Optics
    weight: Floats
    shift: Floats
    bias: Floats
    unembedding: NDArray[np.generic]

    def __post_init__(self) -> None:
        n_tokens, d_model = self.optics.n_tokens, len(self.weight)
        shapes = self.shift.shape, self.bias.shape, self.unembedding.shape
        if shapes != ((d_model,), (n_tokens,), (n_tokens, d_model)):
            raise ActstoreError(
                f"a lens of {n_tokens} tokens and width {d_model} with a shift of {shapes[0]}, a bias of {shapes[1]} "
                f"and an unembedding of {shapes[2]}"
            )
        if not (np.isfinite(self.weight).all() and np.isfinite(self.shift).all()):
            raise ActstoreError("the norm of a lens holds NaN or infinity")
        if np.isnan(self.bias).any() or (self.bias == np.inf).any() or not np.isfinite(self.bias).any():
            raise ActstoreError("the bias of a lens holds NaN or infinity, or bars every token")

    @classmethod
    def load(cls, store: Path, optics: Optics, d_model: int, dtype: str) -> "Lens":
        """The lens in the files of a store, whose sizes were checked; the unembedding stays on the disk.

        Raises CorruptError for numbers that no lens has.
        """
        weight, shift = np.fromfile(store / NORM, "<f4").reshape(2, d_model)
        kind = dtype_named(dtype).stored
        unembedding = np.memmap(store / UNEMBEDDING, kind, mode="r", shape=(optics.n_tokens, d_model))
        try:
            return cls(optics, weight, shift, np.fromfile(store / BIAS, "<f4"), unembedding)
        except ActstoreError as error:
            raise CorruptError(f"{store / FOLDER}: {error}") from None

    def save(self, store: Path, dtype: str) -> None:
        """Write the files, numbers as little-endian; raises ActstoreError where dtype cannot hold the unembedding."""
        kind = dtype_named(dtype)
        (store / FOLDER).mkdir()
        np.stack([self.weight, self.shift]).astype("<f4").tofile(store / NORM)
        self.bias.astype("<f4").tofile(store / BIAS)
        with (store / UNEMBEDDING).open("wb") as file:
            for tokens in self.blocks():
                numbers = kind.encode(np.asarray(self.unembedding[tokens]))
                if not np.isfinite(kind.decode(numbers)).all():
                    raise ActstoreError(f"the unembedding holds a value that is not finite in {dtype}")
                file.write(np.ascontiguousarray(numbers).tobytes())

    def blocks(self, most: int | None = None) -> Iterator[slice]:
        """The tokens in consecutive slices, of at most so many, whose unembedding takes no more than 32 MB."""
        step = max(1, min(BLOCK_BYTES // (4 * len(self.weight)), most or self.optics.n_tokens))
        n_tokens = self.optics.n_tokens
        return (slice(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step))

    def normed(self, x: NDArray[np.number]) -> Floats:
        """What the unembedding sees of vectors x (n, d)."""
        x = np.asarray(x, np.float32)
        if self.optics.norm == "layernorm":
            x = x - x.mean(axis=1, keepdims=True)
        size = np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(self.optics.eps))
        normed: Floats = x / size * self.weight + self.shift
        return normed

    def logits(self, normed: Floats, tokens: slice | NDArray[np.int64] = slice(None)) -> Floats:
        """Logits (n, tokens) of normed vectors (n, d), -inf for tokens that are never said."""
        stored, bias = self.unembedding[tokens], self.bias[tokens]
        rows: Floats = from_bfloat16(stored) if stored.dtype == np.uint16 else np.asarray(stored, np.float32)
        logits: Floats = normed @ rows.T
        logits += bias
        if self.optics.scale != 1:
            logits *= np.float32(self.optics.scale)
        if self.optics.softcap is not None:
            logits = np.tanh(logits / np.float32(self.optics.softcap)) * np.float32(self.optics.softcap)
        logits[:, bias == -np.inf] = -np.inf
        return logits
