"""Checkpoints: a store of many parts is opened without reading what nobody touched, and no damage hides behind one."""

import os
import shutil

import pytest

import actstore
import making
from actstore import ActstoreError, checkpoint
from actstore.commits import Commit


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A store that was opened once before, and counts as one of many parts that were written long ago."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoint, "MANY", 2)
    monkeypatch.setattr(checkpoint, "YOUNG", -3600)
    made = making.store(tmp_path / "s", 4)
    assert len(list((tmp_path / "cache" / "actstore").iterdir())) == 1
    return made.path


@pytest.fixture
def read(monkeypatch):
    """The records that are read from the store itself."""
    names, load = [], Commit.load.__func__
    monkeypatch.setattr(Commit, "load", classmethod(lambda cls, path: names.append(path.name) or load(cls, path)))
    return names


def test_what_was_not_touched_is_not_read_again(path, read):
    store = actstore.open(path)
    assert read == []
    assert store.commits == [Commit.load(path / "commits" / f"b0000000{batch}.json") for batch in range(4)]
    assert store.sql("from rows").height == 36


def test_what_was_added_is_read(path, read, tmp_path):
    shutil.copytree(path, tmp_path / "copy")  # other files, of another store path
    actstore.open(tmp_path / "copy")
    assert len(read) == 4
    read.clear()
    (path / "commits" / "b00000003.json").touch()
    assert len(actstore.open(path).commits) == 4
    assert read == ["b00000003.json"]


def test_a_compaction_is_seen(path):
    from actstore import compaction

    (done,) = compaction.compact(path)
    assert [commit.name for commit in actstore.open(path).commits] == [done.name]


def flip(file):
    with file.open("r+b") as opened:  # in place: inode and size stay
        opened.seek(9)
        byte = opened.read(1)[0]
        opened.seek(9)
        opened.write(bytes([byte ^ 1]))


def truncate(file):
    os.truncate(file, file.stat().st_size - 1)


def replace(file):
    """By another of the same size, with the same time."""
    other, before = file.with_name("other"), file.stat()
    other.write_bytes(bytes(before.st_size))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


def link(file):
    file.rename(f"{file}-elsewhere")
    file.symlink_to(f"{file}-elsewhere")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("commits/b00000002.json", damage) for damage in (flip, truncate, replace, link)),
        *((f"parts/b00000002-*/{name}", damage) for name in ("rows.parquet", "residual/eoi/c/0/0/0")
          for damage in (truncate, link, os.unlink)),
    ],
)  # fmt: skip
def test_damage_is_noticed_at_opening(path, name, damage):
    (file,) = path.glob(name)
    damage(file)
    with pytest.raises(ActstoreError):
        actstore.open(path)


def test_a_record_that_is_gone_is_gone(path):
    (path / "commits" / "b00000002.json").unlink()
    assert actstore.open(path).remaining == [2]


def test_another_store_at_the_same_place(path):
    shutil.rmtree(path)
    assert making.create(path, 4, run={"model": "other"}).commits == []


def test_what_is_young_is_read_again(path, read, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "YOUNG", 3600)
    shutil.rmtree(tmp_path / "cache")
    for _ in range(2):
        actstore.open(path)
    assert len(read) == 8


@pytest.mark.parametrize("damage", [flip, truncate, lambda file: file.write_bytes(b"")])
def test_a_damaged_checkpoint_is_not_used(path, read, tmp_path, damage):
    (file,) = (tmp_path / "cache" / "actstore").iterdir()
    damage(file)
    assert len(actstore.open(path).commits) == len(read) == 4


def test_without_a_cache_folder(path, tmp_path):
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file, where a folder is needed")
    assert len(actstore.open(path).commits) == 4


def test_what_another_version_checked_is_read_again(path, read, monkeypatch):
    monkeypatch.setattr(checkpoint, "version", lambda _: "0.0.0")
    assert len(actstore.open(path).commits) == len(read) == 4
