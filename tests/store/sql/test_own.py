"""A user's own tables and values in SQL, and rows however other libraries hold them."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import ActstoreError, QueryError
from actstore.commands import main
from actstore.format.schema import PICTURE, PICTURES, PLAN, ROWS, SAMPLES, VOCABULARY
from actstore.sql import overview

RATED = {"sample_id": ["b0s0", "b2s1"], "score": [7, 9]}
JOINED = "select sample_id, score from samples join mine using (sample_id) order by score"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s")


@pytest.mark.parametrize(
    "table",
    [
        pl.DataFrame(RATED),
        pl.LazyFrame(RATED),
        pd.DataFrame(RATED),
        pd.DataFrame(RATED).set_index("sample_id"),
        pa.table(RATED),
    ],
    ids=lambda table: f"{type(table).__module__}",
)
def test_own_tables_are_known_to_one_query(store, table):
    assert store.sql(JOINED, tables={"mine": table}).rows() == [("b0s0", 7), ("b2s1", 9)]
    with pytest.raises(QueryError, match="no view 'mine'"):
        store.sql(JOINED)


def test_values(store):
    assert store.sql("select $x as x, $y as y", {"x": "it's", "y": 2}).rows() == [("it's", 2)]
    assert store.sql("select count(*) as n from rows where role = ?", ["eoi"]).item() > 0
    assert store.sql("select count(*) as n from rows where k = $k", {"k": "0"}).item() > 0
    with pytest.raises(QueryError, match="Values were not provided.*x"):
        store.sql("select $x as x")
    with pytest.raises(QueryError, match="excess parameters: y"):
        store.sql("select $x as x", {"x": 1, "y": 2})


@pytest.mark.parametrize(
    ("tables", "error"),
    [
        ({"rows": pl.DataFrame(RATED)}, "the store has a view of this name"),
        ({"Mine": pl.DataFrame(RATED)}, "use lower-case letters"),
        ({"mine": [1, 2]}, "a table of polars, pandas or Arrow is wanted, not list"),
        ({"mine": pd.DataFrame({0: [1]})}, "names that are no text"),
    ],
)
def test_what_is_no_table(store, tables, error):
    with pytest.raises(QueryError, match=error):
        store.sql("select 1 as one", tables=tables)


def test_own_tables_open_no_files(store, tmp_path):
    pl.DataFrame(RATED).write_csv(tmp_path / "t.csv")
    with pytest.raises(QueryError, match="reads its views"):
        store.sql(f"from mine, read_csv('{tmp_path}/t.csv')", tables={"mine": pl.DataFrame(RATED)})


def test_rows_of_other_libraries(store):
    rows = store.sql("from rows order by hash(row_id)")
    wanted, ids = making.expected(rows, 1), rows["row_id"]
    frame = rows.to_pandas()
    shuffled = frame.sample(frac=1, random_state=0).set_index("role")
    assert_array_equal(store.residual(shuffled, 1)[np.argsort(shuffled["row_id"])], wanted[np.argsort(ids)])
    for one in (rows, ids, ids.to_list(), ids.to_numpy(), frame, frame["row_id"], pd.Index(ids), rows.to_arrow()):
        assert_array_equal(store.residual(one, 1), wanted)
    assert_array_equal(store.residual(torch.tensor(ids.to_list()), 1), wanted)


def test_several_layers(store):
    rows = store.sql("from rows order by hash(row_id)")
    assert_array_equal(
        store.residual(rows, layers=[2, 0]), np.stack([making.expected(rows, layer) for layer in (2, 0)], axis=1)
    )
    assert store.residual(rows[:0], layers=[1]).shape == (0, 1, 8)
    assert_array_equal(store.residual(rows, -1), making.expected(rows, 2))
    for wrong in ({}, {"layer": 1, "layers": [1]}):
        with pytest.raises(ActstoreError, match="say one layer, or layers="):
            store.residual(rows, **wrong)
    with pytest.raises(ActstoreError, match="layer -4 is not in this store"):
        store.residual(rows, -4)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ("eoi", "rows are wanted, or their ids, not 'eoi'; for example: store.sql"),
        (5, r"row ids \(n,\) are wanted, not an array of shape \(\)"),
        ([[1, 2]], r"not an array of shape \(1, 2\)"),
        ([[1], [2, 3]], "row ids .* are wanted"),
        (pd.DataFrame({"id": [1]}), "no column row_id, only id"),
        (pd.DataFrame({"row_id": [1.5]}), "a row_id is an integer"),
        (pd.DataFrame({"row_id": pd.array([None], "Int64")}), "a row_id is"),
        (pa.table({"row_id": pa.array([None], pa.int64())}), "a row_id is NULL"),
        (np.array([True, False]), "not a mask"),
    ],
)
def test_what_are_no_rows(store, rows, error):
    with pytest.raises(ActstoreError, match=error):
        store.residual(rows, 0)


def test_a_store_is_closed_behind_a_with(store):
    with store as opened:
        assert opened.sql("select 1 as one").item() == 1
    assert "_connection" not in store.__dict__
    assert store.sql("select 1 as one").item() == 1


def test_a_notebook_shows_the_card(store):
    shown = store._repr_html_()
    assert "tiny" in shown
    assert "eoi, image" in shown


def run(capfdbinary, *words):
    status = main.run(list(words))
    out, err = capfdbinary.readouterr()
    return status, out.decode(), err.decode()


def test_on_the_command_line(store, tmp_path, capfdbinary):
    file = tmp_path / "ratings.csv"
    file.write_text("sample_id,score\nb0s0,7\nb2s1,9\n")
    words = ["query", str(store.path)]
    found = run(capfdbinary, *words, f"{JOINED} limit $n", "--table", f"mine={file}", "-p", "n", "1", "--format", "csv")
    assert found == (0, "sample_id,score\nb0s0,7\n", "")
    status, _, err = run(capfdbinary, *words, "from mine", "--table", str(file))
    assert (status, "such as mine=ratings.csv" in err) == (2, True)
    status, _, err = run(capfdbinary, *words, "from mine", "--table", f"mine={tmp_path}/none.csv")
    assert (status, "none.csv does not exist" in err) == (1, True)


def test_a_wide_table_lacks_its_middle_and_says_so(store, capfdbinary):
    wide = "select " + ", ".join(f"'{name * 9}' as {name}_column" for name in "abcdefghijklmnopqrst")
    status, out, _ = run(capfdbinary, "query", str(store.path), wide, "--format", "table")
    assert status == 0
    assert "a_column" in out.splitlines()[0]
    assert "t_column" in out.splitlines()[0]
    left_out = out[out.index("… ") :]
    assert "j_column" in left_out
    assert "j_column" not in out.splitlines()[0]
    assert "--format records" in left_out
    _, out, _ = run(capfdbinary, "query", str(store.path), wide, "--format", "records")
    assert [line.split() for line in out.splitlines()][1:] == [
        [f"{name}_column", name * 9] for name in "abcdefghijklmnopqrst"
    ]


def test_every_column_has_a_meaning():
    tables = (ROWS, PICTURE, SAMPLES, PICTURES, PLAN, VOCABULARY, overview.PARTS, overview.RESULTS)
    columns = {name for table in tables for name in table}
    assert columns - overview.MEANINGS.keys() == set()


def test_schema(store, capfdbinary):
    status, out, _ = run(capfdbinary, "schema", str(store.path), "--format", "jsonl")
    found = pl.read_ndjson(out.encode())
    assert status == 0
    for view in ("rows", "samples", "plan", "parts", "run", "vocab", "results"):
        columns = store.sql(f"from {view} limit 0").columns
        assert found.filter(view=view)["column"].drop_nulls().to_list() == columns
    own = found.filter(view="rows")
    mine = store.sql("from plan limit 0").drop("batch", "sample_id", "condition").columns
    assert mine
    assert own.filter(pl.col("meaning") == "the sample's own")["column"].to_list() == mine
    assert own.filter(pl.col("column") == "role")["meaning"].item().startswith("which token it is")
    assert own["meaning"].null_count() == 0


def test_a_column_of_the_samples_is_their_own_whatever_it_is_called(tmp_path):
    plan = pl.DataFrame({"sample_id": ["a"], "name": ["Ada"], "bytes": [7]})
    found = overview.schema(actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=8).sql)
    own = found.filter(pl.col("view").is_in(["rows", "samples", "plan"]), pl.col("column").is_in(["name", "bytes"]))
    assert own["meaning"].to_list() == ["the sample's own"] * 6
