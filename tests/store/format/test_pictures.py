"""Format 2: stores of samples that may have several pictures."""

import json

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands import main
from actstore.errors import ActstoreError, FormatError
from actstore.format import records
from actstore.maintain import verify

PICTURES = [{"image_start": 1, "image_end": 4, "grid_rows": 2, "grid_columns": 2, "boi": None, "eoi": 5}] * 2


def made(path, batches=1, **options):
    """Samples of two pictures and of none: rows of eoi of each, and of last."""
    names = [(batch, f"b{batch}{kind}") for batch in range(batches) for kind in ("two", "none")]
    plan = pl.DataFrame({"batch": [b for b, _ in names], "sample_id": [name for _, name in names]})
    store = actstore.create(path, plan=plan, layers=[0], d_model=2, dtype="float32", **options)
    for batch in range(batches):
        two, none = f"b{batch}two", f"b{batch}none"
        rows = pl.DataFrame({"sample_id": [two, two, two, none], "role": ["eoi", "eoi", "last", "last"]})
        samples = pl.DataFrame({"sample_id": [two, none]})
        if options:
            rows = rows.with_columns(picture=pl.Series([1, 2, None, None]))
            samples = samples.with_columns(pictures=pl.Series([PICTURES, None]))
        x = np.arange(8, dtype=np.float32).reshape(1, 4, 2) + 10 * batch
        store.write(batch, samples=samples, rows=rows, residual={"eoi": x[:, :2], "last": x[:, 2:]})
    return actstore.open(path)


def test_which_picture_a_row_is_of(tmp_path):
    store = made(tmp_path / "s", pictures=True)
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
    kind = pl.List(pl.Struct(dict.fromkeys(PICTURES[0], pl.Int32)))
    assert store.sql("select pictures from samples").schema["pictures"] == kind


def test_stores_of_single_pictures_are_as_they_were(tmp_path):
    store = made(tmp_path / "s", batches=2)
    assert records.load(store.path / "actstore.json")["format"] == 1
    assert "picture" not in store.sql("from rows").columns
    other = actstore.create(tmp_path / "t", plan=pl.DataFrame({"sample_id": ["a"]}), layers=[0], d_model=2)
    with pytest.raises(ActstoreError, match="rows has no column 'picture'"):
        other.write(0, samples=pl.DataFrame({"sample_id": ["a"]}), rows=pl.DataFrame({"picture": [1]}), residual={})


def test_a_reader_of_format_1_says_that_it_is_newer(tmp_path):
    """As version 0.1.0 reads it: with what it knows of formats."""
    store = made(tmp_path / "s", pictures=True)
    with pytest.raises(FormatError, match=r"actstore.json: format 2 is newer than this reader \(format 1\)"):
        records.load(store.path / "actstore.json", newest=1)
    assert json.loads((store.path / "commits" / "b00000000.json").read_text())["format"] == 1


def test_it_is_verified_and_compacted_and_indexed(tmp_path):
    store = made(tmp_path / "s", batches=2, pictures=True)
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
