"""Moments in a store mean the same on every machine."""

import json
import time
from datetime import UTC, date, datetime

import polars as pl
import pytest

import actstore
import making
from actstore.commands import main

MOMENTS = [datetime(2024, 3, 31, hour, 30, tzinfo=UTC) for hour in (0, 3, 5, 23)]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_days_and_hours_are_those_of_utc(tmp_path, monkeypatch, capsys, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        moments = pl.Series(MOMENTS).dt.convert_time_zone("Europe/Paris")
        plan = making.plan(1).with_columns(taken=moments)
        store = actstore.create(tmp_path / "s", plan=plan, layers=making.LAYERS, d_model=making.D_MODEL)
        store.write(0, **making.content(0))
        query = "select hour(taken) as h, taken::date::varchar as day from samples where taken >= '2024-03-31 03:00'"
        assert main.run(["query", str(tmp_path / "s"), f"{query} order by taken", "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == [{"h": moment.hour, "day": str(date(2024, 3, 31))} for moment in MOMENTS[1:]]
        assert actstore.open(tmp_path / "s").sql("select taken from samples order by all")["taken"].to_list() == MOMENTS
    finally:
        monkeypatch.undo()
        time.tzset()
