"""Parquet tables of a store."""

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from actstore.errors import CorruptError


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame as Parquet with page checksums."""
    pq.write_table(frame.to_arrow(), path, compression="zstd", write_page_checksum=True)


def read_table(path: Path) -> pl.DataFrame:
    """Read a Parquet table, its page checksums checked."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:  # pq.read_table first imports pandas
            table = file.read()
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path}: cannot be read ({error}); run actstore verify") from None
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
