"""Vectors as an array of xarray, whose axes have names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import xarray as xr
from numpy.typing import NDArray

from actstore.errors import ActstoreError

__all__ = ["labelled"]

DIMS = ("sample", "layer", "d")


def labelled(
    x: NDArray[np.float32], rows: pl.DataFrame, layers: Sequence[int], said: Mapping[str, Any]
) -> xr.DataArray:
    """Vectors (n, L, d) with dimensions sample, layer, d; attributes `said`.

    Coordinates are the layers, and along `sample` the rows' sample_id and other columns, but for lists and for what is
    NULL everywhere. Raises ActstoreError for a column that is called as a dimension.
    """
    if taken := [name for name in rows.columns if name in DIMS]:
        raise ActstoreError(
            f"column '{taken[0]}': a dimension has this name; call it something else: {taken[0]} as ..."
        )
    kept = [one for one in rows if not one.dtype.is_nested() and one.null_count() < len(one)]
    coordinates = {one.name: ("sample", one.to_numpy()) for one in kept if one.name != "sample_id"}
    return xr.DataArray(
        x,
        dims=DIMS,
        coords={"sample": rows["sample_id"].to_numpy(), "layer": list(layers), **coordinates},
        name="residual",
        attrs=dict(said),
    )
