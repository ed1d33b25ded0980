"""Compactions, which later versions write and this one reads."""

import shutil

import polars as pl
import pytest
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import ActstoreError, AlreadyCommittedError, CorruptError
from actstore.maintain import verify


def test_a_compacted_store_has_the_same_rows(tmp_path):
    store = making.store(tmp_path / "s", 4)
    before = store.sql("select * exclude (place) from rows order by row_id")
    making.compact(store, 0, ["b00000001.json", "b00000002.json"])
    shutil.rmtree(store.parts[1].folder)  # a gc may remove what is replaced, and readers do not mind
    store = actstore.open(store.path)
    assert [commit.name for commit in store.commits] == ["b00000000.json", "c00000000.json", "b00000003.json"]
    assert store.sql("select * exclude (place) from rows order by row_id").equals(before)
    assert store.remaining == []
    assert verify.run(verify.steps(store.path)) == []
    rows = store.sql("select row_id, role from rows order by hash(row_id)")
    place = before.with_columns(place=pl.int_range(pl.len()).over(pl.col("row_id") // 2**32, "role"))
    assert_array_equal(
        store.residual(rows, 1), making.expected(rows.join(place, on="row_id", maintain_order="left"), 1)
    )
    with pytest.raises(AlreadyCommittedError, match="batch 1 is committed already"):
        store.write(1, **making.content(1))
    making.compact(store, 1, ["b00000000.json", "c00000000.json"])
    store = actstore.open(store.path)
    assert [commit.name for commit in store.commits] == ["c00000001.json", "b00000003.json"]
    assert store.sql("select * exclude (place) from rows order by row_id").equals(before)


def test_compactions_that_do_not_know_each_other(tmp_path):
    store = making.store(tmp_path / "s")
    making.compact(store, 0, ["b00000000.json", "b00000001.json"])
    with pytest.raises(AlreadyCommittedError):
        making.commits.publish(store.path, actstore.open(store.path).commits[0])
    making.compact(store, 1, ["b00000001.json", "b00000002.json"])
    with pytest.raises(CorruptError, match="batch 1 is claimed by two commit records"):
        actstore.open(store.path)


@pytest.mark.parametrize("fields", [{"replaces": []}, {"replaces": ["b00000000.json"]}, {"batches": [0, 1, 2]}])
def test_a_compaction_that_holds_other_batches_than_it_replaces(tmp_path, fields):
    store = making.store(tmp_path / "s")
    making.compact(store, 0, ["b00000000.json", "b00000001.json"])
    making.change(store.path / "commits" / "c00000000.json", **fields)
    with pytest.raises(CorruptError, match="not those of the records it replaces"):
        actstore.open(store.path)


def test_a_row_id_between_those_of_a_compacted_part(tmp_path):
    store = making.store(tmp_path / "s")
    making.compact(store, 0, ["b00000000.json", "b00000001.json"])
    with pytest.raises(ActstoreError, match="row_id 9 is not in this store"):
        actstore.open(store.path).residual([8, 9, 1 << 32], 0)
