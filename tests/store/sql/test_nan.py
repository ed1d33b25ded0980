"""NaN in a column of a store: SQL finds it as a table of DuckDB's own would, and numpy agrees."""

import json

import duckdb
import numpy as np
import polars as pl
import pytest

import actstore
import making
from actstore.commands import main
from actstore.sql import connection

NAN = float("nan")
SCORES = [1.0, NAN, None, 2.0]
CONDITIONS = [
    f"{{}} {operator} {value}"
    for operator in ("=", "!=", ">", ">=", "<", "<=", "is distinct from")
    for value in ("0.0", "1.0", "2.0", "'nan'::double")
]
VALUES = ("score", "narrow", "record.score", "list[1]")


def scored(path):
    plan = making.plan(1).with_columns(
        score=pl.Series(SCORES),
        narrow=pl.Series(SCORES, dtype=pl.Float32),
        record=pl.Series([{"score": score} for score in SCORES]),
        list=pl.Series([[score] for score in SCORES]),
    )
    store = actstore.create(path, plan=plan, layers=making.LAYERS, d_model=making.D_MODEL)
    store.write(0, **making.content(0))
    return actstore.open(path)


@pytest.mark.parametrize("directly", [True, False])
def test_conditions_and_sums_see_nan(tmp_path, monkeypatch, directly):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if not directly:
        monkeypatch.setattr(connection, "PARTS_READ_DIRECTLY", 0)
    store = scored(tmp_path / "s")
    own = duckdb.connect()
    frame = store.plan.to_arrow()
    own.register("frame", frame)
    own.execute("create table samples as select * from frame")
    for value in VALUES:
        found = ", ".join(
            f"(select string_agg(sample_id, ' ' order by sample_id) from samples where {condition.format(value)})"
            for condition in CONDITIONS
        )
        sums = ", ".join(f"count(*) filter ({condition.format(value)})" for condition in CONDITIONS)
        query = f"select min({value}) as low, max({value}) as high, [{found}] as found, [{sums}] as sums from samples"
        assert repr(store.sql(query).rows()) == repr(own.execute(query).fetchall()), value


def test_the_command_line_counts_nan_as_greater_than_every_number(tmp_path, capsys):
    scored(tmp_path / "s")
    below = "select count(*) from samples where score <= 2"
    query = f"select count(*) as above, ({below}) as below from samples where score > 1.5"
    main.run(["query", str(tmp_path / "s"), query, "--format", "json"])
    scores = np.array([score for score in SCORES if score is not None])
    assert json.loads(capsys.readouterr().out) == [
        {"above": int((~(scores <= 1.5)).sum()), "below": int((scores <= 2).sum())}
    ]


def test_a_result_with_nan_is_filtered_by_its_values(tmp_path):
    store = scored(tmp_path / "s")
    name = store.save_result("overlap", pl.DataFrame({'a "share"': [0.5, NAN], "layer": [0, 1]}), {}).name
    assert store.sql(f'select layer from "{name}" where "a ""share""" > 0.5').rows() == [(1,)]
    assert store.sql(f'select layer from "{name}" where isnan("a ""share""")').rows() == [(1,)]
    assert store.sql(f'select layer from "{name}" where "a ""share""" <= 0.5').rows() == [(0,)]
