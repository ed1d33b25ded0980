"""gc at a URL: what nobody names and nobody writes any more goes, and nothing else."""

import json

import pytest

import actstore
import leading
import making
from actstore.commands.main import run
from actstore.errors import ActstoreError, CorruptError
from actstore.maintain import compaction, leftovers
from actstore.maintain.pushing import push
from actstore.storage import objects
from actstore.write import outbox
from buckets import bucket
from leading import URL

LOST = "b00000002-0badc0de"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A store of two parts and what a writer of a third left."""
    monkeypatch.setattr(outbox, "_tried", set())
    with bucket() as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        push(making.store(tmp_path / "s", 2).path, URL)
        for name in ("rows.parquet", "residual/eoi/c/0/0/0"):
            found.objects[f"runs/s/parts/{LOST}/{name}"] = b"left"
        found.objects["runs/s/parts/notes/mine.txt"] = b"of somebody"
        found.hours = dict.fromkeys(found.objects, 50.0)
        yield found


def test_what_nobody_names_goes(served, capfd):
    before = dict(served.objects)
    assert run(["gc", URL, "--dry-run"]) == 0
    assert f"would remove {URL}/parts/{LOST}" in capfd.readouterr().out
    assert served.objects == before
    assert run(["gc", URL]) == 0
    gone = {f"runs/s/parts/{LOST}/rows.parquet", f"runs/s/parts/{LOST}/residual/eoi/c/0/0/0"}
    assert before.keys() - served.objects.keys() == gone
    assert run(["verify", URL]) == 0


@pytest.mark.parametrize(("hours", "asked"), [(23.0, 0.0), (1.0, 24.0), (47.0, 48.0)])
def test_what_is_young_stays(served, hours, asked):
    """By its last object, and for a day whatever is asked: a writer may have it in hand for half of that."""
    served.hours[f"runs/s/parts/{LOST}/rows.parquet"] = hours
    assert leftovers.find(URL, older_than=asked)[1] == []
    assert outbox.GIVEN_UP / 3600 < leftovers.LEAST_HOURS == 24


def test_what_is_committed_between_list_and_records_stays(served, monkeypatch):
    """Its files are old, and its record comes when the parts were listed."""
    key = "runs/s/commits/b00000001.json"
    record = served.objects.pop(key)
    del served.objects["runs/s/commits.checkpoint"]
    listed = objects.Objects.listed

    def then(self, folder):
        found = listed(self, folder)
        if folder == "parts":
            served.objects[key] = record
        return found

    assert [one.part for one in leftovers.find(URL)[1]] == sorted([LOST, part_of(record)])
    monkeypatch.setattr(objects.Objects, "listed", then)
    assert [one.part for one in leftovers.find(URL)[1]] == [LOST]


def part_of(record):
    return json.loads(record)["part"]


def test_a_record_that_cannot_be_read_stops_it(served):
    """What it names would be taken for left behind."""
    key = "runs/s/commits/b00000001.json"
    served.objects[key] = served.objects[key].replace(b'"rows"', b'"rowz"')
    del served.objects["runs/s/commits.checkpoint"]
    with pytest.raises(CorruptError):
        leftovers.find(URL)


def test_parts_of_replaced_records_are_named(served, tmp_path):
    made = actstore.open(tmp_path / "s").path
    list(compaction.compact(made))
    push(made, URL)
    served.hours |= dict.fromkeys(served.objects, 50.0)
    assert [one.part for one in leftovers.find(URL)[1]] == [LOST]


def test_places_where_nothing_is_removed(served):
    with pytest.raises(ActstoreError, match="nothing is written there"):
        leftovers.find(f"{served.url}/b/runs/s")
