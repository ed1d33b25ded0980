"""Into a store: a source's samples under the names, labels and roles of a user's tables."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.creation.writer import Writer
from actstore.errors import ActstoreError, nearest
from actstore.format.schema import SAMPLES
from actstore.progress import bar
from actstore.storage import local
from actstore_extract.run.importing.pieces import Piece, rows_by_role
from actstore_extract.run.importing.source import Block, Source, shape_of

__all__ = ["Tables", "into"]

PIECE_BYTES = 2**26  # what is read of a source at a time


@dataclass(frozen=True)
class Tables:
    """A user's own tables.

    samples: a row each, in the order of the source, or by sample_id where it names samples itself: labels, lengths, ...
    rows: sample_id, role, position: which positions of whole samples are kept, and as what. padding: on which side
    samples are padded that are shorter than others, by the column length.
    """

    samples: pl.DataFrame | None = None
    rows: pl.DataFrame | None = None
    padding: str | None = None


def into(
    path: Path, source: Source, tables: Tables, card: Mapping[str, Any], dtype: str | None = None
) -> tuple[int, int]:
    """Write a source as the store at `path`, or what is left of it; how many samples were left, and how many there are.

    card: how it was asked for; the run card keeps it, with a checksum of the source's files. Raises ActstoreError for
    tables that do not fit, and for vectors that are padding or not finite, PlanError where the store is of another one.
    """
    samples = _samples(source, tables.samples)
    rows = None if tables.rows is None else rows_by_role(tables.rows, samples["sample_id"].to_list())
    lengths = _lengths(samples, tables.padding)
    described = samples.select(name for name in samples.columns if name in SAMPLES)
    own = samples.select("sample_id", *(name for name in samples.columns if name not in SAMPLES))
    imported = {**card, "crc32c": _checksum(source.files), **({"roles": dict(source.roles)} if source.roles else {})}
    with Writer(path, own, layers=source.layers, dtype=dtype, run={**source.card, "imported": imported}) as writer:
        left, start = set(writer.left), 0
        with bar(len(left), "samples") as progress:
            for block in source.blocks:
                end = start + block.n
                if left.intersection(samples["sample_id"][start:end]):
                    for first, piece in _pieces(block, start, samples, lengths, source.modalities, tables.padding):
                        piece.add(writer, rows)
                        writer.done(described[first : first + len(piece.ids)])
                        progress.advance(len(left.intersection(piece.ids)))
                start = end
    return len(left), source.n


def _samples(source: Source, table: pl.DataFrame | None) -> pl.DataFrame:
    """What is known of each sample, in the order of the source; ids are numbers where nothing names them."""
    own = source.columns
    if table is not None and "condition" in table.columns:
        raise ActstoreError("the table of samples has a column condition, which the store uses itself; rename it")
    if table is None:
        found = own if own is not None else pl.DataFrame({"sample_id": _numbered(source.n)})
    elif own is not None and "sample_id" in own.columns:
        found = _by_id(own, table)
    elif table.height != source.n:
        raise ActstoreError(f"the table of samples has {table.height} rows, the source {source.n} samples")
    else:
        found = table if own is None else table.hstack([one for one in own if one.name not in table.columns])
    if "sample_id" not in found.columns:
        found = found.with_columns(sample_id=pl.Series(_numbered(found.height)))
    return found.with_columns(pl.col("sample_id").cast(pl.String))


def _by_id(own: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    if "sample_id" not in table.columns:
        raise ActstoreError("the source names its samples, and the table of samples has no column sample_id to match")
    named = table.with_columns(pl.col("sample_id").cast(pl.String))
    there = named["sample_id"].to_list()
    if absent := [name for name in own["sample_id"] if name not in set(there)]:
        raise ActstoreError(
            f"sample '{absent[0]}' of the source is not in the table of samples{nearest(absent[0], there)} "
            f"({len(absent)} of {own.height} are not)"
        )
    if named["sample_id"].is_duplicated().any():
        raise ActstoreError("the table of samples has a sample_id twice")
    return own.join(named, on="sample_id", how="left", maintain_order="left")


def _numbered(n: int) -> list[str]:
    """Names of samples that have none.

    >>> _numbered(11)[:2]
    ['00', '01']
    """
    return [f"{number:0{len(str(n - 1))}d}" for number in range(n)]


def _lengths(samples: pl.DataFrame, padding: str | None) -> NDArray[np.int64] | None:
    if "length" not in samples.columns:
        if padding:
            raise ActstoreError(f"--padding {padding}: no table of samples says their length")
        return None
    if samples["length"].null_count() or not samples["length"].dtype.is_integer():
        raise ActstoreError("the column length of the table of samples is a number of tokens in each row")
    return samples["length"].cast(pl.Int64).to_numpy()


def _checksum(files: Sequence[Path]) -> str:
    """Changes with the content of the files, and with their names."""
    found = hashlib.sha256()
    with bar(len(files), "files") as progress:
        for file in files:
            found.update(f"{file.name} {file.stat().st_size} {local.crc32c(file)}\n".encode())
            progress.advance()
    return found.hexdigest()[:16]


def _pieces(
    block: Block,
    start: int,
    samples: pl.DataFrame,
    lengths: NDArray[np.int64] | None,
    modalities: Mapping[str, str],
    padding: str | None,
) -> Iterator[tuple[int, Piece]]:
    """The samples of a block that begins at `start`, some at a time, with the number of the first."""
    vectors = block.read()
    for (role, layer), array in vectors.items():
        if len(shape_of(array)) != 3 or shape_of(array)[0] != block.n:
            raise ActstoreError(f"{block.name}: role '{role}', layer {layer}: {shape_of(array)}, not {block.n} samples")
    each = sum(4 * prod(shape_of(array)[1:]) for array in vectors.values())
    size = max(1, PIECE_BYTES // max(1, each))
    for first in range(0, block.n, size):
        here, there = slice(first, first + size), slice(start + first, start + min(first + size, block.n))
        yield (
            start + first,
            Piece(
                samples["sample_id"][there].to_list(),
                {point: array[here] for point, array in vectors.items()},
                {role: at if at.ndim == 1 else at[here] for role, at in block.positions.items()},
                {role: tokens[here] for role, tokens in block.token_ids.items()},
                modalities,
                None if lengths is None else lengths[there],
                padding,
            ),
        )
