"""Extraction to a URL: the store that a folder would hold, by one process or several, stopped and begun again."""

import pytest

import actstore
import leading
from actstore.commands import main
from actstore.maintain.pulling import pull
from actstore.write import outbox
from actstore_extract.run import runner
from buckets import Fault, bucket
from extracting import SMALL, extract, vectors
from leading import URL


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    extract(path)
    return vectors(path)


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "_tried", set())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with bucket() as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        yield found


def arguments(place, *more):
    changes = [word for change in SMALL for word in ("--set", change)]
    return ["extract", "digits-fusion", str(place), *changes, "--device", "cpu", *more]


def test_a_run_to_a_url_is_a_run_to_a_folder(tmp_path, whole, served, capfd):
    assert main.run(arguments(URL)) == 0
    assert "24 of 24 samples left" in capfd.readouterr().err
    assert vectors(URL) == whole
    assert main.run(arguments(URL)) == 0
    assert "0 of 24 samples left" in capfd.readouterr().err
    assert vectors(pull(URL, tmp_path / "copy").path) == whole
    written = {key.split("/")[2] for key in served.objects}
    known = {"actstore.json", "plan.parquet", "vocab.parquet", "parts", "commits", "commits.checkpoint", "tables.tar"}
    assert written - {"lens", "results"} == known


def test_a_run_that_is_stopped_goes_on(whole, served, capfd):
    """At a record that is refused: what was kept before stays, and another recipe is refused."""
    served.faults.append(Fault(403, "PUT", "commits/b00000003"))
    assert main.run(arguments(URL)) == 1
    assert "commits/b00000003.json: not allowed" in capfd.readouterr().err
    kept = actstore.open(URL).sql("select count(*) from samples").item()
    assert 12 <= kept < 24
    assert main.run(arguments(URL, "--set", "seed=7")) == 1
    assert main.run(arguments(URL)) == 0
    assert f"{24 - kept} of 24 samples left" in capfd.readouterr().err
    assert vectors(URL) == whole


def test_pictures_go_there_too(tmp_path, served):
    assert main.run(arguments(URL, "--set", "capture.thumbnails=8", "--set", "samples.limit=8")) == 0
    leading.forget(tmp_path / "cache")
    assert [one.measure for one in actstore.open(URL).results()] == ["thumbnails"]


@pytest.mark.slow
def test_several_processes_make_one_store_there(whole, served, capfd):
    assert main.run(arguments(URL, "--devices", "2")) == 0
    assert vectors(URL) == whole


def test_who_makes_the_store_second_goes_on_with_the_first(whole, served, monkeypatch):
    """Two ranks that found none: one header is there, and the other's run takes what is left."""
    create = runner.Run._create
    first = []

    def once(self, where):
        if not first:
            first.append(1)
            extract(URL)
        return create(self, where)

    monkeypatch.setattr(runner.Run, "_create", once)
    assert extract(URL).samples == 0
    assert vectors(URL) == whole


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("{}/b/x", "nothing is written there; write into a folder, and to the Hub"),
        ("s3://none/x", "there is no such bucket"),
    ],
)
def test_places_that_take_nothing_are_told_before_the_model_runs(served, monkeypatch, capfd, place, said):
    monkeypatch.setattr(runner, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert main.run(arguments(place.format(served.url))) == 1
    assert said in capfd.readouterr().err
