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
    with pytest.raises(QueryError, match=r"\$x has no value: .* -p x VALUE"):
        store.sql("select $x as x")
    with pytest.raises(QueryError, match=r"the query has no \$y"):
        store.sql("select $x as x", {"x": 1, "y": 2})


@pytest.mark.parametrize(
    ("tables", "error"),
    [
        ({"rows": pl.DataFrame(RATED)}, "the store has a view of this name"),
        ({"Mine": pl.DataFrame(RATED)}, "use lower-case letters"),
        ({"mine": [1, 2]}, "a table of polars, pandas or Arrow is wanted, not list"),
        ({"mine": pd.DataFrame({0: [1]})}, "names that are no text"),
        ({"mine": pd.DataFrame(RATED).set_index("score", drop=False)}, "cannot insert score"),
    ],
)
def test_what_is_no_table(store, tables, error):
    with pytest.raises(ActstoreError, match=error):
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
    for one in (
        rows,
        ids,
        ids.to_list(),
        ids.to_numpy(),
        frame,
        frame["row_id"],
        pd.Index(ids, name="row_id"),
        rows.to_arrow(),
    ):
        assert_array_equal(store.residual(one, 1), wanted)
    assert_array_equal(store.residual(torch.tensor(ids.to_list()), 1), wanted)


ASK = {
    "residual": lambda store, rows: store.residual(rows, 1),
    "layers": lambda store, rows: store.residual(rows, layers=[1])[:, 0],
    "keys": lambda store, rows: store.keys(rows, 1),
    "values": lambda store, rows: store.values(rows, 1),
    "batches": lambda store, rows: np.concatenate([x for _, x in store.batches(rows, 1, size=4)]),
    "attention": lambda store, rows: store.attention("eoi", 1, rows).values,
    "torch": lambda store, rows: store.torch(rows, 1).x.float().numpy(),
    "stream": lambda store, rows: np.stack([one["x"].float() for one in store.torch.stream(rows, 1, seed=None)]),
}


@pytest.fixture(scope="module")
def kv_store(tmp_path_factory):
    return making.kv_store(tmp_path_factory.mktemp("stores") / "kv")


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_whoever_takes_rows_takes_those_of_other_libraries(kv_store, ask):
    rows = kv_store.sql("from rows where role = 'image' order by hash(row_id)")
    ids, frame = rows["row_id"], rows.to_pandas()
    wanted = ask(kv_store, rows)
    indexed = frame.set_index("row_id")
    for one in (ids, ids.to_list(), ids.to_numpy(), frame, indexed, indexed.index, frame["row_id"], pd.Series(ids)):
        assert_array_equal(ask(kv_store, one), wanted)
    for one in (rows.to_arrow(), rows.lazy(), torch.tensor(ids.to_list())):
        assert_array_equal(ask(kv_store, one), wanted)


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ("eoi", "'eoi'"),
        (pd.DataFrame({"id": [1]}), "no column row_id, only id"),
        (pd.Index(["eoi"], name="row_id"), "a row_id is an integer"),
        (pd.DataFrame({"row_id": [3, 1]}).index, "not the index without a name"),
        (pl.Series("position", [1]), "not the column position"),
        (pd.DataFrame({"row_id": [1], "k": [0]}).set_index("row_id")["k"], "not the column k"),
        (torch.tensor([1.5]), "a row_id is an integer"),
        (torch.tensor([True]), "not a mask"),
        ({"row_id": [1]}, r"rows are wanted, or their ids \(n,\) in a list"),
        ([10**15], "row_id 1000000000000000 is not in this store"),
    ],
    ids=str,
)
def test_or_says_what_it_wants(kv_store, ask, rows, error):
    with pytest.raises(ActstoreError, match=error):
        ask(kv_store, rows)


def test_attention_of_rows_is_of_their_samples(store):
    rows = store.sql("from rows order by hash(row_id)")
    values, samples = store.attention("eoi", 1, rows)
    everything = store.attention("eoi", 1)
    place = {name: at for at, name in enumerate(everything.samples["sample_id"])}
    assert samples["sample_id"].to_list() == rows["sample_id"].to_list()
    assert_array_equal(values, everything.values[[place[name] for name in rows["sample_id"]]])
    foreign = rows.with_columns(sample_id=pl.lit("b0s0"))  # a row is of its sample, whatever a table calls it
    assert_array_equal(store.attention("eoi", 1, foreign).values, values)


def test_attention_that_some_samples_lack(tmp_path):
    store = making.create(tmp_path / "s", 2)
    store.write(0, **making.content(0))
    store.write(1, **making.content(1) | {"attention": {}})
    store = actstore.open(store.path)
    assert store.attention("eoi", 0, "from rows where sample_id = 'b0s1'").values.shape == (3, 2, 4)
    with pytest.raises(ActstoreError, match="no attention to 'eoi' of sample 'b1s1'"):
        store.attention("eoi", 0, "from rows where sample_id = 'b1s1'")


@pytest.mark.parametrize("layer", ["1", 1.5, None, [1]])
def test_what_is_no_layer(store, layer):
    for ask in (lambda: store.residual([0], layers=[layer]), lambda: store.attention("eoi", layer)):
        with pytest.raises(ActstoreError, match="a layer is a whole number, not"):
            ask()
    for layers in (6, "01"):
        with pytest.raises(ActstoreError, match="layers are a list of numbers"):
            store.residual([0], layers=layers)


def test_numbers_of_numpy_and_torch(store):
    assert_array_equal(store.residual([0], torch.tensor(1)), store.residual([0], np.int32(1)))
    count = "select count(*) as n from rows where k = $k"
    assert store.sql(count, {"k": np.int64(1)}).item() == store.sql(count, {"k": torch.tensor(1)}).item() > 0
    with pytest.raises(QueryError, match="a query is text, not DataFrame"):
        store.sql(pl.DataFrame())
    with pytest.raises(QueryError, match="'eoi' is a role; its rows are \"from rows where role = 'eoi'\""):
        store.sql("eoi")


def test_what_is_written_may_be_of_pandas_but_not_of_torch(tmp_path):
    plan = making.plan(1).to_pandas()
    store = actstore.create(tmp_path / "s", plan=plan, layers=torch.arange(3), d_model=8)
    content = making.content(0)
    with pytest.raises(ActstoreError, match=r"arrays of numpy are wanted, not Tensor; of torch: x\.float\(\)"):
        store.write(0, **content | {"residual": {name: torch.tensor(x) for name, x in content["residual"].items()}})
    store.write(0, **content | {"rows": content["rows"].to_pandas()})
    rows = actstore.open(store.path).sql("from rows")
    assert_array_equal(actstore.open(store.path).residual(rows, 1), making.expected(rows, 1))


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
        ("eoi", r"rows are wanted, or their ids \(n,\) in a list or an array, not 'eoi'; for example: store.sql"),
        (5, "or an array, not 5; for example"),
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
    assert "--columns NAME,... chooses, --format records shows all" in left_out
    _, out, _ = run(capfdbinary, "query", str(store.path), wide, "--format", "records")
    assert [line.split() for line in out.splitlines()][1:] == [
        [f"{name}_column", name * 9] for name in "abcdefghijklmnopqrst"
    ]


def test_columns_are_chosen(store, capfdbinary):
    words = ["query", str(store.path), "from rows limit 1", "--format", "csv", "--columns"]
    assert run(capfdbinary, *words, "label, row_id") == (0, "label,row_id\ndog,0\n", "")
    status, _, err = run(capfdbinary, *words, "lable")
    assert (status, "no column 'lable'; did you mean 'label'? The table has row_id" in err) == (1, True)
    status, _, err = run(capfdbinary, *words, "k,k")
    assert (status, "'k' is there twice" in err) == (1, True)
    status, out, _ = run(capfdbinary, "results", str(store.path), "--columns", "name", "--format", "json")
    assert (status, out) == (0, "[]\n")
    assert run(capfdbinary, *words[:-1])[1].count(",") > 20  # a choice is of one call


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
