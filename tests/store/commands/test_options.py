"""Options and questions that mean nothing: refused in a line that says which, before anything is computed."""

import datetime

import polars as pl
import pytest

import actstore
import making
from actstore import ActstoreError, Limits
from actstore.commands import main


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s").path


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
