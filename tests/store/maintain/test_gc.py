import fcntl
import os
import shutil

import pytest

import actstore
import making
from actstore import ActstoreError
from actstore.format.commits import File
from actstore.maintain import orphans
from actstore.write import drafts


def test_gc_removes_what_a_dead_writer_left(tmp_path):
    store = making.store(tmp_path / "s")
    dead = store.path / "parts" / "b00000001-0badcafe"
    shutil.copytree(store.parts[1].folder, dead)
    (store.path / "commits" / ".b00000002.json.0badcafe").write_text("{")
    (store.path / ".gitattributes").write_text("not ours")
    assert orphans.find(store.path) == []  # too young: a writer elsewhere may hold it
    found = orphans.find(store.path, older_than=0)
    assert [orphan.path.name for orphan in found] == [".b00000002.json.0badcafe", "b00000001-0badcafe"]
    os.utime(dead, (0, 0))
    assert orphans.find(store.path, older_than=24) == []  # its files are young
    assert all(orphans.remove(orphan) for orphan in found)
    assert not dead.exists()
    assert (store.path / ".gitattributes").exists()
    assert actstore.open(store.path).sql("from rows").height == 27


def test_gc_leaves_a_living_writer_alone(tmp_path):
    store = making.store(tmp_path / "s", 3)
    with store.draft(1) as draft:
        assert drafts.live(store.path) == {1}
        assert orphans.find(store.path, older_than=0) == []
        assert not orphans.remove(orphans.Orphan(draft.folder, 0, 0))
        assert draft.folder.exists()
    assert drafts.live(store.path) == set()
    assert not draft.folder.exists()


def test_gc_leaves_a_part_alone_that_was_committed_since_it_was_found(tmp_path):
    store = making.store(tmp_path / "s")
    assert not orphans.remove(orphans.Orphan(store.parts[0].folder, 0, 0))
    assert actstore.open(store.path).sql("from rows").height == 27


def test_gc_stops_at_a_record_it_cannot_read(tmp_path):
    store = making.store(tmp_path / "s")
    making.record(store.path, 1).write_bytes(b"{")
    with pytest.raises(actstore.CorruptError, match="b00000001.json: not a complete record"):
        orphans.find(store.path, older_than=0)
    assert not orphans.remove(orphans.Orphan(store.parts[1].folder, 0, 0))


def test_a_file_system_without_locks_can_be_written(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    store = making.create(tmp_path / "s")
    with store.draft(0):
        assert drafts.live(store.path) == set()
    store.write(0, **making.content(0))
    assert orphans.find(store.path, older_than=0) == []


def test_a_writer_whose_files_were_taken_away_commits_nothing(tmp_path, monkeypatch):
    """As by a gc on a machine that cannot see the writer's lock."""
    of = File.of

    def taken(path):
        found = of(path)
        path.unlink()
        return found

    store = making.create(tmp_path / "s")
    monkeypatch.setattr(File, "of", taken)
    with pytest.raises(ActstoreError, match="committed, but missing"):
        store.write(0, **making.content(0))
    assert store.remaining == [0, 1, 2]
    assert list((store.path / "parts").iterdir()) == []
