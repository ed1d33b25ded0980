"""Format 3: columns of a user's own in rows."""

import math
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import actstore
import making
from actstore import ActstoreError, CorruptError, FormatError
from actstore.commands.main import run
from actstore.format import records
from actstore.maintain import compaction, verify

GOLDEN = Path(__file__).parents[2] / "golden" / "store-3.tar.xz"
OWN = "select word, count, score, is_noun from rows order by row_id"


@pytest.fixture
def golden(tmp_path):
    with tarfile.open(GOLDEN) as held:
        held.extractall(tmp_path, filter="data")
    return tmp_path / "owned"


def test_the_golden_store_is_read(golden):
    store = actstore.open(golden)
    assert store.header.format == 3
    assert [str(row) for row in store.sql(OWN).rows()] == [
        "('the', 0, 0.5, False)",
        "('cat', None, nan, True)",
        "('the', 1, 0.5, False)",
        "('cat', None, nan, True)",
    ]
    rows = store.sql("from rows where word = 'cat' and isnan(score) order by row_id")
    assert np.array_equal(store.residual(rows, 0), [[2, 3], [12, 13]])
    assert verify.run(verify.steps(golden)) == []


def test_what_is_made_today_has_the_same_header(golden, tmp_path):
    made = making.owned(tmp_path / "s")
    old, new = (records.load(path / "actstore.json", newest=3) for path in (golden, made.path))
    assert {name: new[name] for name in ("format", "capture")} == {name: old[name] for name in ("format", "capture")}


@pytest.mark.parametrize("pictures", [False, True])
def test_they_stay_where_parts_are_merged(tmp_path, pictures):
    before = making.owned(tmp_path / "s", pictures=pictures).sql("from rows order by row_id")
    assert ("picture" in before.columns) == pictures
    list(compaction.compact(tmp_path / "s"))
    store = actstore.open(tmp_path / "s")
    assert [commit.name for commit in store.commits] == ["c00000000.json"]
    assert store.sql("from rows order by row_id").drop("place").equals(before.drop("place"))
    assert verify.run(verify.steps(store.path)) == []
    assert records.load(store.path / "actstore.json", newest=3)["capture"].get("pictures", False) == pictures


def test_an_older_reader_says_that_it_is_newer(golden):
    with pytest.raises(FormatError, match="format 3 is newer than this reader"):
        records.load(golden / "actstore.json", newest=2)


def test_schema_says_whose_they_are(golden, capfd):
    assert run(["schema", str(golden), "--format", "csv"]) == 0
    assert "rows,count,BIGINT,the row's own" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_columns": {"Word": "string"}}, "column 'Word' of rows: use lower-case"),
        ({"row_columns": {"label": "string"}}, "column 'label' of the plan: rows have one of this name, too"),
        ({"row_columns": {"length": "int64"}}, "column 'length' of rows: the store uses this name itself"),
        ({"row_columns": {"picture": "int64"}}, "column 'picture' of rows: the store uses this name itself"),
        ({"row_columns": {"word": "text"}}, "type 'text' is not one of boolean, float64, int64, string"),
    ],
)
def test_what_they_cannot_be(tmp_path, options, message):
    plan = pl.DataFrame({"sample_id": ["a"], "label": ["x"]})
    pictures = "picture" in options["row_columns"]
    with pytest.raises(ActstoreError, match=message):
        actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=1, pictures=pictures, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"word": "text"}, "not a header of format 1, 2 or 3"),
        ({"role": "string"}, "not a header of format 1, 2 or 3"),
        ({}, "not a header of format 1, 2 or 3"),
        ({"word": "string"}, "only|columns are not those|committed to another store"),
    ],
)
def test_a_forged_header_is_refused(golden, change, message):
    header = golden / "actstore.json"
    forged = records.load(header, newest=3)
    forged["capture"]["rows"] = change
    header.write_bytes(records.dump(forged))
    with pytest.raises(CorruptError, match=message):
        actstore.open(golden).sql("from rows")


def test_hooks_say_them(tmp_path):
    x = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3)
    words = {"word": [["the", "cat"], ["a", None]], "weight": np.array([[0.5, math.nan], [1, 2]])}
    with actstore.Writer(tmp_path / "s", ["a", "b"], layers=[0, 1], part_samples=1) as writer:
        for layer in (0, 1):
            writer.add("text", layer, x[:, :2], ["a", "b"], columns=words)
            writer.add("last", layer, x[:, 0], ["a", "b"])
    found = actstore.open(tmp_path / "s").sql("select role, word, weight from rows order by role desc, sample_id, k")
    assert [str(row) for row in found.rows()] == [
        "('text', 'the', 0.5)",
        "('text', 'cat', nan)",
        "('text', 'a', 1.0)",
        "('text', None, 2.0)",
        "('last', None, None)",
        "('last', None, None)",
    ]


def test_hooks_say_the_same_ones_everywhere(tmp_path):
    x = np.ones((1, 3), np.float32)
    writer = actstore.Writer(tmp_path / "s", ["a", "b"], layers=[0, 1], part_samples=1)
    for values in ([[1]], object(), [b"x"], [1j]):
        with pytest.raises(ActstoreError, match="column 'n'.*(shape|texts, numbers or truth values)"):
            writer.add("last", 0, x, ["a"], columns={"n": values})
    with pytest.raises(ActstoreError, match="column 'unit': the store uses this name itself"):
        writer.add("last", 0, x, ["a"], columns={"unit": 1})
    for layer in (0, 1):
        writer.add("last", layer, x, ["a"], columns={"n": 1 + layer})
    with pytest.raises(ActstoreError, match="sample 'a': its rows at layer 1 are not those at layer 0"):
        writer.done()
    for layer in (0, 1):
        writer.add("last", layer, x, ["a"], columns={"n": 1})
    writer.done()
    with pytest.raises(ActstoreError, match="column 'n' of rows is string here, and is int64 in the store"):
        writer.add("last", 0, x, ["b"], columns={"n": "one"})
    with pytest.raises(ActstoreError, match="column 'm' of rows is string here, and is not among those of the first"):
        writer.add("last", 0, x, ["b"], columns={"m": "one"})
