"""Options and questions that mean nothing: refused in a line that says which, before anything is computed."""

import datetime
import json

import polars as pl
import pytest

import actstore
import making
from actstore import ActstoreError, Limits
from actstore.commands import main


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s").path


ORDERED = "from rows order by row_id"
OVERLAP = ("overlap", "--label", "label", "-k", "2")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ((*OVERLAP, "--layers", "3..1"), 2, "'3..1' goes down; the other way round: 1..3"),
        ((*OVERLAP, "--layers", ""), 2, "'' names nothing; leave the option away"),
        ((*OVERLAP, "--layers", ","), 2, "',' names nothing; leave the option away"),
        ((*OVERLAP, "--layers", "0.."), 2, "'0..' is no layer"),
        ((*OVERLAP, "--layers", "0..99999999999"), 2, "'0..99999999999' is no layer"),
        ((*OVERLAP, "--layers", "²"), 2, "'²' is no layer"),
        ((*OVERLAP, "--layers", "0..-1"), 2, "'0..-1' counts from both ends"),
        ((*OVERLAP, "--layers", "-1..-2"), 2, "'-1..-2' goes down"),
        ((*OVERLAP, "--layers", "--1"), 2, "'--1' is no layer"),
        ((*OVERLAP, "--layers", "-99"), 1, "layer -99 is not in this store"),
        ((*OVERLAP, "--drop-dims", "-1"), 2, "'-1' is no dimension"),
        ((*OVERLAP, ""), 1, "the query is empty"),
        (("query", "select $x + 1 as y", "-p", "x", "3"), 1, "say its type where it stands, such as $x::int"),
        (("query", "select $x as y"), 1, "-p x VALUE of query"),
        (("query", "from mine"), 1, "actstore query --table mine=FILE"),
        ((*OVERLAP, "--roles", ","), 2, "',' names nothing"),
        (("cluster", "-z", "nan"), 2, "'nan' is no finite number"),
        (("query", "from rows", "--seconds", "inf"), 2, "'inf' is no finite number"),
        (("query", "from rows", "--seconds", "1e300"), 1, "limits of 1e+300 seconds"),
        (("query", "from rows", "--gigabytes", "1e300"), 1, "1e+300 GB: at most"),
        (("compact", "--size", "nan"), 2, "'nan' is no finite number"),
        (("gc", "--older-than", "nan"), 2, "'nan' is no finite number"),
        (("outliers", "--times", "1e999"), 2, "'1e999' is no finite number"),
        ((*OVERLAP, "--positions", "9" * 30), 2, "is not in the range"),
        (("cka", "--seed", "-1"), 2, "-1"),
        (("query", "select '\udcff' as x"), 1, "the query holds bytes that are no text in UTF-8"),
        (("query", "select 1 as x, 2 as x"), 1, "two columns are called 'x'"),
        (("query", "select date 'infinity' as x"), 1, "column 'x' has a date before the year 1"),
        (("query", "select [timestamp '-infinity'] as x"), 1, "column 'x' has a date before the year 1"),
        (("query", "select [interval 1 month] as x"), 1, "no table here holds the INTERVAL of column 'x'"),
        (("query", "select ['x'::blob] as x", "--format", "json"), 1, "holds no binary values inside"),
        (("overlap", "select row_id + 0.5 as row_id from rows", "--label", "label"), 1, "a row_id is an integer"),
        (("probe", "--label", "sample_id", "--roles", "eoi"), 1, "too few for 5 folds"),
        (("probe", "select *, 0.5 as x from rows", "--label", "x", "--roles", "eoi"), 1, "'x' is a number"),
    ],
)  # fmt: skip
def test_it_is_refused(path, capfd, command, status, said):
    assert main.run([command[0], str(path), *command[1:]]) == status
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_layers_are_counted_from_the_last(path, tmp_path, capfd):
    said = []
    for layers in ("-1", "2", "-2..-1", "1..2"):
        assert main.run([OVERLAP[0], str(path), *OVERLAP[1:], "--roles", "image", "--layers", layers]) == 0
        said.append(capfd.readouterr().out)
    assert said[0] == said[1]
    assert said[2] == said[3]
    for number, layer in enumerate(("-1", "2")):
        assert (
            main.run(["export", str(path), ORDERED, "--layer", layer, "-o", str(tmp_path / f"{number}.parquet")]) == 0
        )
    first, second = (pl.read_parquet(tmp_path / f"{number}.parquet") for number in range(2))
    assert "layer_2" in first.columns
    assert first.equals(second)


def test_values_of_p_are_text_that_is_compared_as_what_it_meets(path, capfd):
    ask = ["query", str(path), "--format", "csv", "-p", "x", "10"]
    for query, found in (
        ("select count(*) as n from range(100) where range < $x", "10"),  # as text 2 would be more than 10
        ("select count(*) as n from range(100) where range + 0.5 < $x", "10"),
        ("select $x::int + 1 as n", "11"),
        ("select $x as n", "10"),
    ):
        assert main.run([*ask, query]) == 0
        assert capfd.readouterr().out == f"n\n{found}\n"


@pytest.mark.parametrize("name", ["x.CSV", "x.Parquet", "x.JSONL"])
def test_suffixes_in_capital_letters(path, tmp_path, capfd, name):
    """Written, read as a table, and written with vectors."""
    file = tmp_path / name
    assert main.run(["query", str(path), "select sample_id, 7 as n from samples", "-o", str(file)]) == 0
    asked = "select sum(n)::int as n, count(*) as m from samples join mine using (sample_id)"
    assert main.run(["query", str(path), asked, "--table", f"mine={file}", "--format", "csv"]) == 0
    n, m = map(int, capfd.readouterr().out.split()[1].split(","))
    assert n == 7 * m > 0
    if name != "x.JSONL":
        vectors = tmp_path / f"vectors{file.suffix}"
        assert main.run(["export", str(path), "--layer", "1", "-o", str(vectors)]) == 0
        read = pl.read_csv if name == "x.CSV" else pl.read_parquet
        assert read(vectors).height == actstore.open(path).sql("from rows").height


def test_a_path_is_shown_as_it_was_typed(path, monkeypatch, capfd):
    monkeypatch.chdir(path.parent)
    assert main.run(["info", path.name, "--format", "table"]) == 0
    assert capfd.readouterr().out.startswith(f"store    {path.name} (format ")
    assert main.run(["overlap", path.name, "--roles", "nothing"]) == 1
    assert f"no role 'nothing' in {path.name}, which has" in capfd.readouterr().err
    assert main.run(["index", path.name]) == 0
    assert capfd.readouterr().out == f"{path.name}/index.duckdb\n"


def test_settings_are_shown_as_what_they_are(tmp_path, capfd):
    """Lists are kept as text in a run card, which stays as it is."""
    settings = {"sizes": "[8, 8]", "pad": "[PAD]", "wide": 3, "nested": '{"a": [1]}'}
    plan = pl.DataFrame({"sample_id": ["a"]})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=2, run={"settings": settings})
    wanted = {"sizes": [8, 8], "pad": "[PAD]", "wide": 3, "nested": {"a": [1]}}
    for words in (["query", str(store), "select settings from run"], ["info", str(store)]):
        assert main.run([*words, "--format", "jsonl"]) == 0
        assert json.loads(capfd.readouterr().out)["settings"] == wanted
    assert store.run["settings"] == actstore.open(store.path).run["settings"] == settings


def test_what_is_no_store_is_not_compacted(tmp_path, capfd):
    assert main.run(["compact", str(tmp_path)]) == 1
    assert "is not a store: it has no actstore.json" in capfd.readouterr().err


@pytest.mark.parametrize("style", ["csv", "json", "jsonl", "markdown", "table"])
def test_binary_values_are_shown_as_digits(path, capfdbinary, style):
    assert main.run(["query", str(path), "select encode('Aé') as x", "--format", style]) == 0
    assert b"41c3a9" in capfdbinary.readouterr().out


def test_a_map_that_json_has_not_is_refused_by_name(path, capfd):
    assert main.run(["query", str(path), "select map([1], ['a']) as x", "--format", "json"]) == 1
    assert "--format json cannot hold this table" in capfd.readouterr().err


@pytest.mark.parametrize(
    "value", [datetime.date(1, 1, 1), datetime.date(9999, 12, 31), datetime.datetime(9999, 12, 31, 23, 59, 59), None]
)
def test_dates_that_python_has_are_held(tmp_path, value):
    plan = making.plan(1).with_columns(pl.lit(value).alias("day"))
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=2)
    assert store.plan["day"][0] == value
    assert store.sql("select distinct day from plan").item() == value


def test_dates_that_nothing_shows_are_refused_in_a_plan(tmp_path):
    plan = making.plan(1).with_columns(day=pl.lit(2**31 - 1, pl.Int32).cast(pl.Date))
    with pytest.raises(ActstoreError, match="column 'day' has a date before the year 1, after 9999 or infinite"):
        actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=2)


@pytest.mark.parametrize("limits", [{"seconds": float("nan")}, {"seconds": 1e10}, {"gigabytes": float("inf")}])
def test_limits_that_nothing_can_hold(limits):
    with pytest.raises(ActstoreError, match="limits of"):
        Limits(**limits)
