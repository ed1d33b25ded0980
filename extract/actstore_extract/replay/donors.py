"""Donors: what a patch puts into a sample: vectors of another, means, differences of means, or those of a file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl

from actstore.format.given import suffix_of
from actstore.storage import local
from actstore_extract.replay.errors import ReplayError
from actstore_extract.replay.reader import Reader
from actstore_extract.replay.sample import Vectors
from actstore_extract.roles import Positions

__all__ = ["Donor", "from_file", "means", "of_rows"]

COLUMN = "layer_"  # and the layer
EVERYWHERE = -1  # a vector that is the same in all layers


@dataclass(frozen=True)
class Donor:
    """`vectors(layer)` (n, d), of one sample or of none; `label` is the class they stand for.

    `row_ids` (n,) are those of a sample's vectors.
    """

    name: str
    n: int
    vectors: Callable[[int], Vectors]
    sample_id: str | None = None
    label: str | None = None
    row_ids: Positions = field(default_factory=lambda: np.empty(0, np.int64))


def of_rows(reader: Reader, rows: pl.DataFrame) -> list[Donor]:
    """A donor for each sample and role: its vectors, by position. rows: row_id, sample_id, role, k, label."""
    return [_of(reader, own) for own in rows.sort("sample_id", "role", "k").partition_by("sample_id", "role")]


def _of(reader: Reader, rows: pl.DataFrame) -> Donor:
    row_ids = rows["row_id"].to_numpy()
    name, label = rows.select("sample_id", "label").row(0)
    return Donor(name, len(row_ids), lambda layer: reader.residual(row_ids, layer), name, label, row_ids)


def means(reader: Reader, rows: pl.DataFrame, name: str, label: str | None, minus: pl.DataFrame | None = None) -> Donor:
    """One vector: the mean over rows, less the mean over those of `minus`."""
    for side in (rows, minus):
        if side is not None and not side.height:
            raise ReplayError(f"no rows to take the mean of: {name}")
    own = rows["row_id"].to_numpy()
    other = None if minus is None else minus["row_id"].to_numpy()

    @lru_cache(maxsize=1)  # receivers go through a layer together
    def vectors(layer: int) -> Vectors:
        mean = _mean(reader, own, layer)
        return mean if other is None else mean - _mean(reader, other, layer)

    return Donor(name, 1, vectors, label=label)


def _mean(reader: Reader, row_ids: Positions, layer: int) -> Vectors:
    """Mean (1, d) over rows, added up in float64."""
    mean: Vectors = reader.residual(row_ids, layer).mean(0, dtype=np.float64, keepdims=True).astype(np.float32)
    return mean


def from_file(path: Path, d_model: int, layers: Sequence[int], *, label: str | None = None) -> Donor:
    """The mean of the vectors of a file: .npy of shape (d,) or (n, d), or .parquet with one column of vectors, for all
    layers; .parquet with columns layer_L, a mean for each of these layers. As actstore export writes both.

    ReplayError for another width, and for layers without a vector.
    """
    found = {EVERYWHERE: _numpy(path)} if suffix_of(path) == ".npy" else _parquet(path)
    by_layer = {layer: x.mean(0, dtype=np.float64).astype(np.float32) for layer, x in found.items()}
    n = len(next(iter(found.values())))
    name = f"the vector of {path}" if n == 1 else f"the mean of {n:,} vectors of {path}"
    if EVERYWHERE not in found:
        name += ", for each layer"
    for x in by_layer.values():
        if x.shape != (d_model,):
            raise ReplayError(f"{path}: a vector of {x.size} numbers; the residual stream of this model has {d_model}")
        if not np.isfinite(x).all():
            raise ReplayError(f"{path}: a vector holds inf or NaN")
    missing = [layer for layer in layers if layer not in by_layer]
    if EVERYWHERE not in by_layer and missing:
        has = ", ".join(map(str, sorted(by_layer)))
        raise ReplayError(f"{path}: no vector for layer {missing[0]}, only for {has}; choose with --layers")
    return Donor(name, 1, lambda layer: by_layer[layer if layer in by_layer else EVERYWHERE][None], label=label)


def _numpy(path: Path) -> Vectors:
    """The vectors (n, d)."""
    try:
        x = np.load(BytesIO(local.content(path)), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise ReplayError(f"{path}: {error}") from None
    if not isinstance(x, np.ndarray):
        raise ReplayError(f"{path}: it holds several arrays; one of floats (d,) or (n, d) is wanted")
    if x.ndim not in (1, 2) or not x.size or not np.issubdtype(x.dtype, np.floating):
        raise ReplayError(
            f"{path}: {x.dtype} of shape {x.shape}; floats (d,) or (n, d) are wanted, or, for a vector of each layer, "
            f".parquet with columns {COLUMN}N"
        )
    return np.atleast_2d(x.astype(np.float32))


def _parquet(path: Path) -> dict[int, Vectors]:
    """The vectors (n, d) by layer."""
    if suffix_of(path) != ".parquet":
        raise ReplayError(f"{path}: a vector is read from .npy or .parquet")
    try:
        table = pl.read_parquet(local.content(path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ReplayError(f"{path}: {error}") from None
    lists = [name for name, kind in table.schema.items() if isinstance(kind, pl.List | pl.Array)]
    names = {name: int(name.removeprefix(COLUMN)) for name in lists if name.removeprefix(COLUMN).isdecimal()}
    names = names or ({lists[0]: EVERYWHERE} if len(lists) == 1 else {})
    if not table.height or not names:
        has = ", ".join(lists) or "none"
        raise ReplayError(
            f"{path}: {table.height} rows with columns of vectors: {has}; rows with one are wanted, or with {COLUMN}N "
            "for each layer, as actstore export writes them"
        )
    try:
        return {layer: np.array(table[name].to_list(), np.float32) for name, layer in names.items()}
    except (TypeError, ValueError):
        raise ReplayError(
            f"{path}: the vectors of {', '.join(names)} are not of one width, or are no numbers"
        ) from None
