"""A record that was lost: its part is whole, nothing in the store names it, and it may be the only copy."""

import os
import re
import shutil

import pytest

import actstore
import making
from actstore.commands import main
from actstore.errors import DamagedWarning
from actstore.format import commits
from actstore.maintain import compaction
from actstore.sql import connection
from actstore.write import unrecorded


def old(path):
    for one in [path, *path.rglob("*")]:
        os.utime(one, (0, 0))


def ran(capfd, *arguments):
    capfd.readouterr()
    status = main.run([str(one) for one in arguments])
    return status, "".join(capfd.readouterr())


def test_a_complete_part_without_a_record_is_told_and_kept(tmp_path, capfd):
    store = making.store(tmp_path / "s")
    part, record = store.parts[1].folder, making.record(store.path, 1)
    kept = record.read_bytes()
    record.unlink()
    old(part)
    status, said = ran(capfd, "verify", store.path)
    assert (status, "all good but 1 parts without a record" in said) == (0, True)
    assert f"{part}: complete, but no commit record names it" in said
    status, said = ran(capfd, "gc", store.path)
    assert (status, f"kept {part}: complete" in said, part.is_dir()) == (0, True, True)
    record.write_bytes(kept)
    assert ran(capfd, "verify", store.path)[1].endswith("checks, all good\n")
    assert actstore.open(store.path).sql("from rows").height == 27
    record.unlink()
    assert f"removed {part}" in ran(capfd, "gc", "--complete", store.path)[1]
    assert not part.exists()


def test_a_copy_without_its_records_says_so_when_it_is_opened(tmp_path, capfd):
    store = making.store(tmp_path / "s")
    for name in commits.names(store.path):
        (store.path / "commits" / name).unlink()
    said = f"{store.path}: not read, for want of their commit records: {len(store.parts)} complete parts"
    with pytest.warns(DamagedWarning, match=re.escape(said)):
        assert actstore.open(store.path).sql("from rows").height == 0
    status, words = ran(capfd, "query", store.path, "select count(*) from rows", "--format", "csv")
    assert (status, words.count(said), f"actstore verify {store.path} names them" in words) == (0, 1, True)
    assert words.count("0\n") == 1


def test_the_only_copy_of_a_compaction_is_kept_without_its_record(tmp_path, capfd):
    store = making.store(tmp_path / "s")
    (merged,) = compaction.compact(store.path)
    part = store.path / "parts" / merged.part
    (store.path / "commits" / merged.name).unlink()
    assert unrecorded.complete(store.path) == []  # what it replaced is still there
    for one in store.parts:
        shutil.rmtree(one.folder)
    old(part)
    assert unrecorded.complete(store.path) == [part]
    assert f"kept {part}: complete" in ran(capfd, "gc", store.path)[1]
    assert part.is_dir()


@pytest.mark.parametrize("name", ["rows.parquet", "samples.parquet"])
def test_what_is_not_complete_or_was_made_again_is_removed(tmp_path, capfd, name):
    store = making.store(tmp_path / "s")
    again = store.path / "parts" / "b00000000-0badcafe"  # as of a writer that was overtaken
    shutil.copytree(store.parts[0].folder, again)
    making.record(store.path, 1).unlink()
    half = store.parts[1].folder
    (half / name).write_bytes((half / name).read_bytes()[:-9])
    for part in (again, half):
        old(part)
    assert unrecorded.complete(store.path) == []
    assert ran(capfd, "gc", store.path)[1].count("removed ") == 2


def test_a_part_that_is_being_written_is_not_told(tmp_path):
    store = making.create(tmp_path / "s")
    whole = making.store(tmp_path / "whole").parts[0].folder
    with store.draft(0) as draft:
        shutil.copytree(whole, draft.folder, dirs_exist_ok=True)
        assert unrecorded.complete(store.path) == []


def test_an_index_of_another_store_under_this_name_is_not_believed(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(connection, "PARTS_READ_DIRECTLY", 0)
    one, two = (making.store(tmp_path / name, batches) for name, batches in (("one", 1), ("two", 2)))
    counted = [("query", store.path, "select count(*) as n from rows", "--format", "csv") for store in (one, two)]
    assert [ran(capfd, *question)[1] for question in counted] == ["n\n9\n", "n\n18\n"]
    first, second = (next((tmp_path / "cache" / "actstore").glob(f"*-{store.state}.duckdb")) for store in (one, two))
    shutil.copy(first, second)
    assert ran(capfd, *counted[1])[1] == "n\n18\n"
