import json

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from safetensors import safe_open
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


@pytest.mark.parametrize("name", ["x.parquet", "x.npy", "x.safetensors", "x.csv", "x.sae-lens"])
def test_an_export_says_where_it_comes_from(store, tmp_path, name):
    *_, table = export(store, QUERY, [1], tmp_path / name)
    said = [json.loads(pq.read_schema(table).metadata[b"actstore"])]
    if name == "x.safetensors":
        with safe_open(tmp_path / name, "np") as file:
            said.append(json.loads(file.metadata()["actstore"]))
    for one in said:
        assert (one["store"], one["state"], one["model"]) == ("s", store.state, "tiny")
        assert (one["sql"], one["layers"], one["keys"]) == (QUERY, [1], [])
        assert str(tmp_path) not in json.dumps(one)


def test_csv(store, tmp_path, monkeypatch):
    monkeypatch.setattr("actstore.commands.export.ROWS_AT_A_TIME", 4)
    rows = store.sql(QUERY)
    export(store, QUERY, [2, 0], tmp_path / "x.csv")
    found = pl.read_csv(tmp_path / "x.csv")
    assert found.select(rows.columns).equals(rows.cast({"place": pl.Int64}))
    for layer in (0, 2):
        numbers = found.select(f"layer_{layer}_{i}" for i in range(8)).to_numpy()
        assert_array_equal(numbers.astype(np.float32), making.expected(rows, layer))


@pytest.mark.parametrize("suffix", ["parquet", "npy", "safetensors", "csv", "sae-lens"])
def test_nothing_is_written_over_unless_asked_for(store, tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    export(store, QUERY, [1], path)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(ActstoreError, match=rf"x\.{suffix}: it exists; (write over it with --overwrite|remove it)"):
        export(store, QUERY, [2], path)
    if before is not None:
        assert path.read_bytes() == before
        export(store, QUERY, [2], path, overwrite=True)
        assert path.read_bytes() != before


def test_bytes_are_hexadecimal_in_csv(store, tmp_path):
    export(store, "select row_id, encode('ab') as x from rows", [1], tmp_path / "x.csv")
    assert set(pl.read_csv(tmp_path / "x.csv")["x"]) == {6162}


@pytest.mark.parametrize(
    ("suffix", "query", "layers", "name"),
    [
        ("npy", "from rows", [1, 1], "layer_1"),
        ("parquet", "select *, 0 as layer_1 from rows", [1], "layer_1"),
        ("csv", "select *, 0 as layer_1_7 from rows", [1], "layer_1_7"),
    ],
)
def test_each_column_has_a_name_of_its_own(store, tmp_path, suffix, query, layers, name):
    with pytest.raises(ActstoreError, match=f"two columns would be called '{name}'"):
        export(store, query, layers, tmp_path / f"x.{suffix}")
    assert list(tmp_path.glob("x*")) == []


def test_a_layer_from_the_end_is_named(store, tmp_path):
    export(store, QUERY, [-1], tmp_path / "x.parquet")
    export(store, QUERY, [store.layers[-1]], tmp_path / "y.parquet")
    assert pl.read_parquet(tmp_path / "x.parquet").equals(pl.read_parquet(tmp_path / "y.parquet"))
    with pytest.raises(ActstoreError, match="layer -9 is not in this store"):
        export(store, QUERY, [-9], tmp_path / "x.npy")
