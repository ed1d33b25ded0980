"""A table of samples: Parquet, CSV or JSON lines with columns image, prompt, label and whatever else."""

from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import polars as pl

from actstore_extract.samples.source import Samples, SamplesError, Source, open_image

__all__ = ["Table"]

READERS: dict[str, Callable[[IO[bytes]], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": pl.read_csv,
    ".jsonl": pl.read_ndjson,
    ".ndjson": pl.read_ndjson,
}


class Table(Source):
    """One row for each sample; `image` is a path relative to `images`, or to the table's own folder."""

    source: Literal["table"]
    path: Path
    images: Path | None = None

    def everything(self) -> Samples:
        """The table as it is; without a column sample_id the rows are numbered."""
        if self.path.suffix not in READERS:
            raise SamplesError(f"{self.path}: a table of samples is one of {', '.join(READERS)}")
        try:
            with self.path.open("rb") as file:  # polars would take its path for a pattern
                table = READERS[self.path.suffix](file)
        except FileNotFoundError:
            raise SamplesError(f"table {self.path} does not exist; set samples.path") from None
        except (OSError, pl.exceptions.PolarsError) as error:
            raise SamplesError(f"{self.path}: {error}") from None
        if not table.height:
            raise SamplesError(f"{self.path} has no rows")
        if "sample_id" not in table.columns:
            numbers = pl.int_range(table.height, eager=True).cast(pl.String).str.zfill(6)
            table = table.insert_column(0, ("row-" + numbers).alias("sample_id"))
        if "image" not in table.columns:
            table = table.with_columns(image=pl.lit(None, pl.String))
        folder = self.images or self.path.parent
        table = table.with_columns(pl.col("sample_id", "image").cast(pl.String))
        return Samples(table, lambda name: open_image(folder / name), folder)
