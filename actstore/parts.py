"""Parts: the committed batches of a store, for reading."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.commits import PARTS, Commit
from actstore.errors import ActstoreError, CorruptError
from actstore.schema import ROWS, SAMPLES, Columns
from actstore.tables import read_table

if TYPE_CHECKING:
    from actstore.arrays import ArrayReader


class Part:
    """A committed part, for reading; a file's bytes are checked before its first use."""

    def __init__(self, store: Path, commit: Commit) -> None:
        self.commit = commit
        self.folder = store / PARTS / commit.part
        self._arrays: dict[str, ArrayReader] = {}

    def path(self, name: str) -> Path:
        """The path of a file of the part, after its bytes were compared with the committed checksum."""
        path = self.folder / name
        self.commit.files[name].check(path, whole=True)
        return path

    @cached_property
    def rows_path(self) -> Path:
        """rows.parquet, checked once."""
        return self.path("rows.parquet")

    @cached_property
    def samples_path(self) -> Path:
        """samples.parquet, checked once."""
        return self.path("samples.parquet")

    def samples(self) -> pl.DataFrame:
        """The samples of the part, in the order of its attention arrays."""
        return self._table(self.samples_path, SAMPLES, self.commit.samples)

    def rows(self) -> pl.DataFrame:
        """The rows of the part, in the order of row_id."""
        return self._table(self.rows_path, ROWS, self.commit.rows)

    def _table(self, path: Path, columns: Columns, height: int) -> pl.DataFrame:
        frame = read_table(path)
        if dict(frame.schema) != columns or frame.height != height:
            raise CorruptError(f"{path}: columns or number of rows differ from the commit record")
        return frame

    def array(self, name: str) -> "ArrayReader":
        """The array called `name`, for example residual/eoi."""
        from actstore.arrays import ArrayReader  # zarr takes longer to import than a query runs

        if name not in self._arrays:
            self.path(f"{name}/zarr.json")
            self._arrays[name] = ArrayReader(self.folder, name, self.commit.arrays[name])
        return self._arrays[name]

    @cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str], NDArray[np.int64]]:
        frame = self.rows()
        roles = sorted(name.removeprefix("residual/") for name in self.commit.arrays if name.startswith("residual/"))
        codes = frame["role"].replace_strict(roles, range(len(roles)), default=-1, return_dtype=pl.Int64)
        return (
            frame["row_id"].to_numpy(),
            codes.to_numpy(),
            roles,
            frame["place"].cast(pl.Int64).to_numpy(),
        )

    def residual(
        self, row_ids: NDArray[np.int64], chosen: NDArray[np.int64], layer: int, out: NDArray[np.float32]
    ) -> None:
        """Fill out[chosen] with the vectors of row_ids[chosen] at the layer with index `layer`."""
        known, codes, roles, places = self._places
        wanted = row_ids[chosen]
        index = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        missing = wanted[known[index] != wanted] if len(known) else wanted
        if len(missing):
            raise ActstoreError(f"row_id {missing[0]} is not in this store")
        for code in np.unique(codes[index]):
            if code < 0:
                raise CorruptError(
                    f"{self.folder}: row_id {wanted[codes[index] == code][0]} has a role without an array"
                )
            of_role = codes[index] == code
            distinct, back = np.unique(places[index[of_role]], return_inverse=True)
            out[chosen[of_role]] = self.array(f"residual/{roles[code]}").rows(layer, distinct)[back]
