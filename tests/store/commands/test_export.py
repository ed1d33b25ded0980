import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file

import making
from actstore import ActstoreError
from actstore.commands.export import export

QUERY = "select row_id, role, label, place from rows where role = 'image' order by hash(row_id)"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s")


def test_parquet(store, tmp_path):
    rows = store.sql(QUERY)
    assert export(store, QUERY, [0, 2], tmp_path / "x.parquet") == [tmp_path / "x.parquet"]
    found = pl.read_parquet(tmp_path / "x.parquet")
    assert found.drop("layer_0", "layer_2").equals(rows)
    assert_array_equal(found["layer_0"].to_numpy(), making.expected(rows, 0))
    assert_array_equal(found["layer_2"].to_numpy(), making.expected(rows, 2))


def test_npy_of_one_layer(store, tmp_path):
    rows = store.sql(QUERY)
    export(store, QUERY, [1], tmp_path / "x.npy")
    found = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert (found.dtype, found.shape) == (np.float32, (18, 8))
    assert_array_equal(found, making.expected(rows, 1))
    assert pl.read_parquet(tmp_path / "x.npy.rows.parquet").equals(rows)


def test_npy_of_several_layers(store, tmp_path):
    rows = store.sql(QUERY)
    export(store, QUERY, [2, 0], tmp_path / "x.npy")
    found = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert_array_equal(found, np.stack([making.expected(rows, 2), making.expected(rows, 0)], axis=1))


def test_safetensors(store, tmp_path):
    rows = store.sql(QUERY)
    export(store, QUERY, [0, 1], tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert sorted(found) == ["layer_0", "layer_1"]
    assert_array_equal(found["layer_1"], making.expected(rows, 1))
    assert pl.read_parquet(tmp_path / "x.safetensors.rows.parquet").equals(rows)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o644


def test_many_rows_go_in_pieces(store, tmp_path, monkeypatch):
    monkeypatch.setattr("actstore.commands.export.ROWS_AT_A_TIME", 4)
    export(store, QUERY, [1], tmp_path / "x.parquet")
    found = pl.read_parquet(tmp_path / "x.parquet")
    assert_array_equal(found["layer_1"].to_numpy(), making.expected(found, 1))


def test_a_file_that_cannot_be_written(store, tmp_path):
    (tmp_path / "file").touch()
    for suffix in ("parquet", "npy", "safetensors"):
        with pytest.raises(ActstoreError, match=rf"x\.{suffix}(\.rows\.parquet)?: cannot be written: "):
            export(store, QUERY, [1], tmp_path / "file" / f"x.{suffix}")


def test_the_rows_of_an_array_never_replace_an_export_of_the_same_name(store, tmp_path):
    export(store, QUERY, [1], tmp_path / "x.parquet")
    before = (tmp_path / "x.parquet").read_bytes()
    assert export(store, QUERY, [1], tmp_path / "x.npy") == [tmp_path / "x.npy", tmp_path / "x.npy.rows.parquet"]
    assert (tmp_path / "x.parquet").read_bytes() == before


@pytest.mark.parametrize("name", ["plan.npy", "parts/x.parquet"])
def test_nothing_is_exported_into_a_store(store, name):
    with pytest.raises(ActstoreError, match="is inside the store .*: write it elsewhere, a store is never edited"):
        export(store, QUERY, [1], store.path / name)
    assert not (store.path / name).exists()
