"""What callers in Python give: right, or one clear error; nothing is taken for what it is not."""

import pickle
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import ActstoreError, Limits
from actstore.format.given import each, names, numbers, path_of, suffix_of, truth, whole

FRAME = pl.DataFrame({"sample_id": ["b0s0"], "n": [1]})
QUERY = "from rows where role = 'eoi'"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.kv_store(tmp_path_factory.mktemp("stores") / "s")


WRONG = [
    (lambda s: s.residual([0], True), "a layer is a whole number, not True"),
    (lambda s: s.residual([0], np.True_), "a layer is a whole number, not np.True_"),
    (lambda s: s.residual([0], torch.tensor(True)), r"not tensor\(True\)"),
    (lambda s: s.residual([0], layers=1), r"layers are a list of numbers, not 1: layers=\[0, 6\]"),
    (lambda s: s.residual([0], layers=[True]), "a layer is a whole number, not True"),
    (lambda s: s.residual([0], layers=[]), "layers is an empty list"),
    (lambda s: s.residual([0], layers={1: 2}), "layers are a list of numbers"),
    (lambda s: s.residual([0], -9), "layer -9 is not in this store"),
    (lambda s: s.residual(None, 1), r"rows are wanted, or their ids \(n,\) in a list or an array, not None"),
    (lambda s: s.residual((i for i in [0]), 1), "not generator"),
    (lambda s: s.residual(iter([0]), 1), "not list_iterator"),
    (lambda s: s.residual({0}, 1), r"not \{0\}"),
    (lambda s: s.residual([None], 1), "a row_id is an integer, not None"),
    (lambda s: s.residual([2**70], 1), "more than 63 bits"),
    (lambda s: s.residual(pd.Series([0, None], dtype="Int64"), 1), "a row_id is NULL"),
    (lambda s: s.residual(pd.array([0, None], dtype="Int64"), 1), "a row_id is NULL"),
    (lambda s: s.residual(pd.DataFrame({"row_id": [0, None]}), 1), "a row_id is NULL"),
    (lambda s: s.residual(np.ma.array([0, 1], mask=[True, False]), 1), "a row_id is NULL"),
    (lambda s: s.residual(pd.DataFrame([[0, 1]], columns=["row_id"] * 2), 1), "two columns called row_id"),
    (lambda s: s.keys([0], True), "a block is a whole number, not True"),
    (lambda s: s.attention("eoi", True), "a layer is a whole number"),
    (lambda s: s.batches(QUERY, 1, size=0), "size is at least 1, not 0"),  # at once, not at the first batch
    (lambda s: s.batches(QUERY, 1, size=2.5), "size is a whole number, not 2.5"),
    (lambda s: s.batches(QUERY, 9), "layer 9 is not in this store"),
    (lambda s: s.xarray(QUERY, layers=1), "layers are a list of numbers, not 1"),
    (lambda s: s.sql("select ? as x", 4), r"parameters are a list of values for \?, .* not 4"),
    (lambda s: s.sql("select ? as x", "abc"), "parameters are .* not 'abc'"),
    (lambda s: s.sql("select ? as x", (x for x in [4])), "parameters are .* not generator"),
    (lambda s: s.sql("select ? as x", FRAME), "parameters are .* not DataFrame"),
    (lambda s: s.sql("select ? as x"), "parameter 1 has no value: give a list"),
    (
        lambda s: s.sql("select $x as x, $y as y"),
        r"\$x, \$y has no value: give it, \{'x': value\} in Python, -p x VALUE",
    ),
    (lambda s: s.sql("select $x as x", {"x": 1, "z": 2}), r"the query has no \$z"),
    (lambda s: s.sql("select ? as x", [1, 2]), "more values are given than"),
    (lambda s: s.sql("select 1 as x", [1]), "more values are given than"),
    (lambda s: s.sql("select $x as x", [1]), r"a query has either \? or \$name"),
    (lambda s: s.sql("select $x + 1 as x", {"x": "3"}), r"say its type where it stands, such as \$x::int"),
    (lambda s: s.sql("from m", tables=FRAME), "tables have names: tables={'mine': frame}, not DataFrame"),
    (lambda s: s.sql("from m", tables={1: FRAME}), "table '1': use lower-case letters"),
    (
        lambda s: s.sql("from mine"),
        r"no view 'mine'.*tables=\{'mine': frame\} in Python, actstore query --table mine=FILE",
    ),
    (lambda s: s.sql("  "), "the query is empty"),
    (lambda s: s.json_columns(5), "a query is text, not int"),
    (lambda s: s.json_columns("from nothing"), "no view 'nothing'"),
    (lambda s: s.show(5), "sample_id is text, not 5"),
    (lambda s: s.is_committed("x"), "a batch is a whole number, not 'x'"),
    (lambda s: s.draft(-1), "a batch is at least 0, not -1"),
    (lambda s: s.checked("x"), "lists no file 'x', only"),
    (lambda s: s.save_result("m", None, {}), "a table of polars, pandas or Arrow is wanted, not NoneType"),
    (lambda s: s.save_result("m", FRAME, None), "parameters of a result have names"),
    (lambda s: s.save_result("m", FRAME, {"a": object()}), "are what JSON can say"),
    (lambda s: s.save_result(5, FRAME, {}), "measure '5'"),
    (lambda s: s.saved_result("m", {"a": object()}), "are what JSON can say"),
    (lambda s: s.torch.stream(QUERY, 1, seed=-3), "seed is at least 0, not -3"),
    (lambda s: s.torch.stream(QUERY, 1, seed=2.5), "seed is a whole number, not 2.5"),
    (lambda s: s.torch.stream(QUERY, 1, buffer="x"), "buffer is a whole number, not 'x'"),
    (lambda s: s.torch.stream(QUERY, 1).set_epoch(-1), "epoch is at least 0, not -1"),
    (lambda s: s.torch(QUERY, 1, columns=5), "columns are names in a list, not 5"),
    (lambda s: s.torch(QUERY, layers=[]), "layers is an empty list"),
    (lambda _: actstore.open(5), "a store is a path, not 5"),
    (lambda _: actstore.open(""), "a store is a path, not ''"),
    (lambda s: actstore.open(s.path, limits=5), r"limits are actstore.Limits\(seconds=..., gigabytes=...\), not 5"),
    (lambda _: Limits("x"), "limits are numbers, of seconds and of gigabytes, not 'x'"),
    (lambda _: Limits(True), "limits are numbers"),
    (lambda _: actstore.create("x", plan=FRAME, layers=0, d_model=4), "layers are a list of numbers, not 0"),
    (lambda _: actstore.create("x", plan=FRAME, layers=[0], d_model="4"), "d_model is a whole number, not '4'"),
    (lambda _: actstore.create("x", plan=FRAME, layers=[0], d_model=4, vocabulary={"a": "b"}), "text of each token"),
    (lambda _: actstore.create("x", plan=FRAME, layers=[0], d_model=4, run=[1]), "run has values by their names"),
    (lambda _: actstore.create("x", plan=FRAME, layers=[0], d_model=4, lens=5), "lens is an actstore"),
    (lambda _: actstore.create("x", plan=FRAME, layers=[0], d_model=4, dtype=5), "dtype '5' is not one of"),
    (lambda _: actstore.create("x", plan=FRAME, layers=[0], d_model=4, pictures="no"), "pictures is True or False"),
    (lambda _: actstore.create("x", plan=FRAME, layers=[0], d_model=4, pictures=1), "True or False, not 1"),
    (lambda _: actstore.Writer("x", ["a"], layers=3), "layers are a list of numbers, not 3"),
    (lambda _: actstore.Writer("x", 5, layers=[0]), "samples are ids in a list, or a table with sample_id, not 5"),
    (lambda _: actstore.Writer("x", {"a": 1}, layers=[0]), "samples are ids in a list"),
    (lambda _: actstore.Writer("x", ["a"], layers=[0], part_samples=2.5), "part_samples is a whole number, not 2.5"),
]


@pytest.mark.parametrize(("ask", "error"), WRONG, ids=[error for _, error in WRONG])
def test_one_clear_error(store, tmp_path, monkeypatch, ask, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ActstoreError) as raised:
        ask(store)
    assert re.search(error, str(raised.value))
    assert "\n" not in str(raised.value).partition("Binder Error")[0].strip()
    assert list(tmp_path.iterdir()) == []
    assert "m" not in [one.measure for one in store.results()]


def test_names_and_numbers():
    assert names("eoi", "roles") == names(pl.Series(["eoi"]), "roles") == names(np.array(["eoi"]), "roles") == ["eoi"]
    assert numbers(torch.tensor([0, 1]), "layers") == numbers(pd.Index([0, 1]), "layers") == [0, 1]
    assert each("abc") is each(FRAME) is each({"a": 1}) is each(5) is each(np.eye(2)) is None
    assert whole(np.int8(-1), "a layer") == -1
    assert truth(np.True_, "pictures") is True
    assert suffix_of(path_of("a/B.TAR.GZ", "a file")) == ".gz"
    for wrong in (5, None, [5], {"a": 1}, b"ab", FRAME):
        with pytest.raises(ActstoreError, match="roles are names in a list, not"):
            names(wrong, "roles")


def test_negative_numbers_count_from_the_last(store):
    ids = store.sql("select row_id from rows where role = 'image' order by all")
    last = store.layers[-1]
    assert_array_equal(store.residual(ids, -1), store.residual(ids, last))
    assert_array_equal(store.residual(ids, layers=[-1, 0])[:, 0], store.residual(ids, last))
    assert_array_equal(store.keys(ids, -1), store.keys(ids, store.blocks[-1]))
    assert_array_equal(store.values(ids, np.int64(-1)), store.values(ids, store.blocks[-1]))
    assert store.xarray(ids, layers=[-1]).layer.item() == last
    with pytest.raises(ActstoreError, match="block -9 are not in this store; it has those of blocks"):
        store.keys(ids, -9)


def test_row_ids_are_given_the_columns_of_their_rows(store):
    ids = store.sql("select row_id, label from rows where role = 'image' order by hash(row_id)")
    wanted = ids["label"].to_list()
    for rows in (ids["row_id"].to_list(), ids.select("row_id"), ids, ids.to_pandas()):
        assert [one["label"] for one in store.torch(rows, 1, columns="label")] == wanted
    renamed = ids.with_columns(label=pl.lit("mine"))
    assert store.torch(renamed, 1, columns=["label"])[0]["label"] == "mine"


def test_one_sample_is_a_list_of_one(tmp_path):
    with actstore.Writer(tmp_path / "s", "cat.jpg", layers=[0, 1]) as writer:
        for layer in (torch.tensor(0), np.int64(1)):
            writer.add("last", layer, torch.full((1, 4), float(layer)), "cat.jpg")
    store = actstore.open(tmp_path / "s")
    assert store.sql("select sample_id from rows").rows() == [("cat.jpg",)]
    assert_array_equal(store.residual([0], layers=[0, 1])[0, :, 0], [0, 1])


ADDED = [
    ({"samples": 5}, "samples 0:"),
    ({"samples": "xy"}, "sample 'xy' is not among"),
    ({"layer": True}, "a layer is a whole number, not True"),
    ({"layer": 0.0}, "a layer is a whole number, not 0.0"),
    ({"layer": -1}, "not one of this store's layers"),
    ({"role": None}, "a role is text, not None"),
    ({"columns": 5}, "columns has values by their names"),
    ({"positions": [2**40]}, "position: .*1099511627776$"),
]


@pytest.mark.parametrize(("given", "error"), ADDED, ids=[error for _, error in ADDED])
def test_what_no_writer_takes(tmp_path, given, error):
    writer = actstore.Writer(tmp_path / "s", ["x", "y"], layers=[0])
    with pytest.raises(ActstoreError, match=error):
        writer.add(**{"role": "last", "layer": 0, "vectors": torch.zeros(1, 4), "samples": ["x"]} | given)
    writer.fail("x", ValueError("too long"))
    with pytest.raises(ActstoreError, match="sample 5 is not among"):
        writer.fail(5, "")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A store by a relative path, opened before the process went to another folder, where another one has its name."""
    monkeypatch.chdir(tmp_path)
    made = making.store(tmp_path / "s")
    made.save_result("counted", FRAME, {"k": 1})
    opened, writer = actstore.open("s"), actstore.Writer("w", ["x"], layers=[0])
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    actstore.create("s", plan=FRAME, layers=[0], d_model=4)
    return opened, writer


def test_a_store_stays_where_it_was_opened(elsewhere, tmp_path):
    opened, writer = elsewhere
    assert (str(opened), opened.path) == ("s", tmp_path / "s")
    assert repr(opened).startswith("<Store s: 3 of ")
    again = pickle.loads(pickle.dumps(opened))
    for store in (opened, again):
        rows = store.sql("from rows where role = 'image'")
        assert_array_equal(store.residual(rows, 1), making.expected(rows, 1))
        (one,) = store.results()
        assert one.table().equals(FRAME)
        assert store.sql(f"from {one.name}").equals(FRAME)
        assert len(store.torch(rows, 1)) == len(list(store.torch.stream(rows, 1))) == rows.height
    assert repr(again) == repr(opened)
    opened.save_result("counted", FRAME, {"k": 2})
    assert len(actstore.open(tmp_path / "s").results()) == 2
    assert opened.remaining == [] or not opened.is_committed(opened.remaining[0])
    with pytest.raises(ActstoreError, match="is not in this store: s$"):
        opened.residual([2**40], 1)
    with writer:
        writer.add("last", 0, torch.ones(1, 4), ["x"])
    assert actstore.open(tmp_path / "w").sql("from rows").height == 1
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["s"]
