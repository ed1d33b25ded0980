"""Format 2: stores of samples that may have several pictures."""

import json
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import actstore
import making
from actstore.commands import main
from actstore.errors import ActstoreError, FormatError
from actstore.format import records
from actstore.maintain import verify

GOLDEN = Path(__file__).parents[2] / "golden" / "store-2.tar.xz"  # made once by making.golden_pictures


def test_the_golden_store_is_read_forever(tmp_path):
    with tarfile.open(GOLDEN) as packed:
        packed.extractall(tmp_path, filter="data")
    store = actstore.open(tmp_path / "pictures")
    assert store.header.format == 2
    rows = store.sql("select row_id, sample_id, role, k, picture from rows order by row_id")
    assert rows.rows() == [
        (0, "b0two", "eoi", 0, 1),
        (1, "b0two", "eoi", 1, 2),
        (2, "b0two", "last", 0, None),
        (3, "b0none", "last", 0, None),
        (2**32, "b1two", "eoi", 0, 1),
        (2**32 + 1, "b1two", "eoi", 1, 2),
        (2**32 + 2, "b1two", "last", 0, None),
        (2**32 + 3, "b1none", "last", 0, None),
    ]
    np.testing.assert_array_equal(store.residual(rows, 0)[:, 0], [0, 2, 4, 6, 10, 12, 14, 16])
    samples = store.sql("select pictures from samples order by sample_id")["pictures"].to_list()
    assert samples == [None, making.PICTURES, None, making.PICTURES]
    assert verify.run(verify.steps(store.path)) == []


def test_which_picture_a_row_is_of(tmp_path):
    store = making.pictured(tmp_path / "s", pictures=True)
    second = store.sql("from rows where role = 'eoi' and picture = 2")
    np.testing.assert_array_equal(store.residual(second, 0), [[2, 3]])
    assert store.sql("select p.grid_rows from samples, unnest(pictures) t(p) where p.eoi = 5").height == 2
    assert "pictures" not in store.sql("from rows").columns
    assert actstore.open(tmp_path / "s").sql("select picture from rows order by row_id")["picture"].to_list() == [
        *(1, 2, None, None)
    ]


def test_an_empty_store_knows_the_columns(tmp_path):
    plan = pl.DataFrame({"sample_id": ["a"]})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=2, pictures=True)
    assert store.sql("select picture from rows").height == 0
    kind = pl.List(pl.Struct(dict.fromkeys(making.PICTURES[0], pl.Int32)))
    assert store.sql("select pictures from samples").schema["pictures"] == kind


def test_stores_of_single_pictures_are_as_they_were(tmp_path):
    store = making.pictured(tmp_path / "s", batches=2)
    assert records.load(store.path / "actstore.json")["format"] == 1
    assert "picture" not in store.sql("from rows").columns
    other = actstore.create(tmp_path / "t", plan=pl.DataFrame({"sample_id": ["a"]}), layers=[0], d_model=2)
    with pytest.raises(ActstoreError, match="rows has no column 'picture'"):
        other.write(0, samples=pl.DataFrame({"sample_id": ["a"]}), rows=pl.DataFrame({"picture": [1]}), residual={})


def test_a_reader_of_format_1_says_that_it_is_newer(tmp_path):
    """As version 0.1.0 reads it: with what it knows of formats."""
    store = making.pictured(tmp_path / "s", pictures=True)
    with pytest.raises(FormatError, match=r"actstore.json: format 2 is newer than this reader \(format 1\)"):
        records.load(store.path / "actstore.json", newest=1)
    assert json.loads((store.path / "commits" / "b00000000.json").read_text())["format"] == 1


def test_it_is_verified_and_compacted_and_indexed(tmp_path):
    store = making.pictured(tmp_path / "s", batches=2, pictures=True)
    assert verify.run(verify.steps(store.path)) == []
    before = store.sql("select row_id, picture from rows order by row_id")
    assert main.run(["compact", str(store.path)]) == 0
    after = actstore.open(store.path)
    assert len(after.parts) == 1
    assert after.sql("select row_id, picture from rows order by row_id").equals(before)
    assert verify.run(verify.steps(store.path)) == []
    after.write_index()
    assert main.run(["query", str(store.path), "select picture from rows"]) == 0


def test_a_plan_of_own_columns_of_that_name(tmp_path):
    plan = pl.DataFrame({"sample_id": ["a"], "picture": ["x"]})
    actstore.create(tmp_path / "one", plan=plan, layers=[0], d_model=2)
    with pytest.raises(ActstoreError, match="column 'picture' of the plan: the store uses this name itself"):
        actstore.create(tmp_path / "several", plan=plan, layers=[0], d_model=2, pictures=True)
