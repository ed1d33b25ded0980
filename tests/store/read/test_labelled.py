"""Vectors with names on their axes: what xarray says of a row is what the store says of it."""

import json
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal

import making
from actstore import ActstoreError

xr = pytest.importorskip("xarray")
QUERY = "from rows where role = 'image' order by hash(row_id)"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s")


def test_names_of_the_axes(store):
    rows = store.sql(QUERY)
    found = store.xarray(QUERY)
    assert (found.dims, found.dtype, found.name) == (("sample", "layer", "d"), np.float32, "residual")
    assert found.layer.values.tolist() == [0, 1, 2]
    for layer in store.layers:
        assert_array_equal(found.sel(layer=layer), making.expected(rows, layer))
    for name in ("row_id", "role", "position", "label"):
        assert found[name].values.tolist() == rows[name].to_list()
    assert found.sample.values.tolist() == rows["sample_id"].to_list()
    one = rows.row(5, named=True)
    chosen = found.sel(sample=one["sample_id"], layer=1)
    assert_array_equal(chosen[chosen.position == one["position"]][0], making.expected(rows[5:6], 1)[0])
    assert "error" not in found.coords  # NULL everywhere
    assert found.attrs["sql"] == QUERY
    assert (found.attrs["store"], found.attrs["state"], found.attrs["model"]) == ("s", store.state, "tiny")


def test_what_the_rows_lack_is_of_the_store(store):
    rows = store.sql(QUERY)
    ids = rows["row_id"].to_list()
    for asked in (ids, np.array(ids), pd.DataFrame({"row_id": ids}), pl.DataFrame({"row_id": ids})):
        found = store.xarray(asked, [2, -3])
        assert found.layer.values.tolist() == [2, 0]
        assert found.row_id.values.tolist() == ids
        assert found.label.values.tolist() == rows["label"].to_list()
        assert_array_equal(found.values, store.residual(ids, layers=[2, 0]))
        assert "sql" not in found.attrs
    mine = rows.select("row_id", label=pl.lit("mine"), score=pl.int_range(pl.len()))
    found = store.xarray(mine, [0])
    assert found.label.values.tolist() == ["mine"] * len(ids)
    assert found.score.values.tolist() == [*range(len(ids))]
    assert found.sample.values.tolist() == rows["sample_id"].to_list()
    assert store.xarray([ids[0], ids[0]], [1]).shape == (2, 1, 8)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_it_is_saved_and_read_again(store, tmp_path):
    found = store.xarray(QUERY)
    found.to_dataset().to_zarr(tmp_path / "x.zarr")
    again = xr.open_zarr(tmp_path / "x.zarr", chunks=None).residual
    assert_array_equal(again.values, found.values)
    assert again.label.values.tolist() == found.label.values.tolist()
    assert json.loads(json.dumps(again.attrs)) == found.attrs


@pytest.mark.parametrize(
    ("rows", "layers", "error"),
    [
        ("from rows", [9], "layer 9 is not in this store"),
        ([1, 9 << 32], None, "row_id 38654705664 is not in this store"),
        ("eoi", None, "'eoi' is a role; its rows are"),
        ("select row_id, k as layer from rows", None, "column 'layer': a dimension has this name"),
        ("from samples", None, "no column row_id"),
    ],
)
def test_one_clear_error(store, rows, layers, error):
    with pytest.raises(ActstoreError, match=error):
        store.xarray(rows, layers)


def test_without_xarray(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    monkeypatch.delitem(sys.modules, "actstore.read.labelled", raising=False)
    with pytest.raises(ActstoreError, match="xarray needs xarray; install it with: pip install 'xarray>=2025.12'"):
        store.xarray(QUERY)
