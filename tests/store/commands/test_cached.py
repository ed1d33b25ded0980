"""actstore cache: what stores at URLs left, listed and removed, and results that are nowhere else."""

import json
import os
import time

import polars as pl
import pytest

import actstore
import leading
import making
from actstore.commands.main import run
from actstore.maintain.pulling import pull
from actstore.maintain.pushing import push
from buckets import bucket
from leading import URL

OTHER = "s3://b/runs/other"


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Two stores that were read from a bucket."""
    with bucket() as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        for number, url in enumerate((URL, OTHER)):
            push(making.store(tmp_path / str(number), 1).path, url)
            store = actstore.open(url)
            store.residual(store.sql("from rows"), 1)
        yield found


def listed(capfd, *options):
    capfd.readouterr()
    assert run(["cache", *options, "--format", "json"]) == 0
    said = capfd.readouterr()
    return json.loads(said.out), said.err


def left(tmp_path):
    return sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file())


def age(tmp_path, name, hours):
    """As if the store had been opened so long ago."""
    (header,) = (tmp_path / "cache").rglob(f"{name}/actstore.json")
    then = time.time() - hours * 3600
    os.utime(header, (then, then))


def test_stores_are_listed_with_what_they_left(opened, tmp_path, capfd):
    found, _ = listed(capfd)
    assert [one["url"] for one in found] == [OTHER, URL]
    assert sum(one["bytes"] for one in found) == left(tmp_path)
    assert [one["url"] for one in listed(capfd, URL)[0]] == [URL]
    assert listed(capfd, "s3://b/none")[0] == []


def test_what_is_cleared_is_fetched_again(opened, tmp_path, capfd):
    rows = actstore.open(URL).sql("from rows order by row_id")
    _, said = listed(capfd, "--clear")
    assert "MB of 2 stores" in said
    assert left(tmp_path) == 0
    assert not any((tmp_path / "cache" / "actstore" / "stores").iterdir())
    assert actstore.open(URL).sql("from rows order by row_id").equals(rows)


def test_only_what_is_old_goes(opened, tmp_path, capfd):
    age(tmp_path, "other", 50)
    found, _ = listed(capfd, "--older-than", "48")
    assert [(one["url"], one["hours"]) for one in found] == [(OTHER, 50.0)]
    listed(capfd, "--clear", "--older-than", "48")
    assert [one["url"] for one in listed(capfd)[0]] == [URL]


def test_saved_results_stay_unless_said(opened, tmp_path, capfd):
    """They are nowhere else; a later pull brings them."""
    saved = actstore.open(URL).save_result("count", pl.DataFrame({"n": [1]}), {})
    _, said = listed(capfd, "--clear")
    assert "; 1 saved results stay (--results removes them, too)" in said
    (kept,) = listed(capfd)[0]
    assert (kept["url"], kept["bytes"], kept["results"]) == (URL, len(URL), 1)
    assert [one.name for one in actstore.open(URL).results()] == [saved.name]
    assert [one.name for one in pull(URL, tmp_path / "copy").results()] == [saved.name]
    listed(capfd, "--clear", "--results")
    assert actstore.open(URL).results() == []


def test_a_store_that_is_read_goes_on(opened, capfd):
    """Its vectors are fetched again, and what is opened next."""
    store = actstore.open(URL)
    rows = store.sql("from rows where role = 'eoi'")
    listed(capfd, "--clear")
    assert store.residual(rows, 2).shape == (3, making.D_MODEL)
    assert actstore.open(URL).sql("from rows").height == 9


def test_no_cache_is_an_empty_list(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert listed(capfd, "--clear")[0] == []
    assert run(["cache", "--results"]) == 2
