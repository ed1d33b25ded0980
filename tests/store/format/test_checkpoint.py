"""The checkpoint: many parts are opened without reading records nobody touched, and no damage hides behind it."""

import json
import os
import shutil
import time

import pytest

import actstore
import making
from actstore import ActstoreError
from actstore.format import checkpoint
from actstore.format.commits import Commit
from actstore.maintain import damage as damaged
from actstore.maintain import verify
from actstore.storage import local


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A store with a checkpoint, as one of many parts has."""
    monkeypatch.setattr(checkpoint, "MANY", 2)
    made = making.store(tmp_path / "s", 4)
    time.sleep(0.05)  # what was touched in the same tick of the clock is read again
    made.write_index()
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


def test_a_copy_is_opened_as_it_was(path, read, tmp_path):
    shutil.copytree(path, tmp_path / "copy")  # other files, touched in another order
    assert len(actstore.open(tmp_path / "copy").commits) == 4
    shutil.copy2(path / "commits.checkpoint", tmp_path / "copy" / "commits.checkpoint")
    read.clear()
    os.utime(tmp_path / "copy" / "commits.checkpoint")  # now the last that was touched
    assert len(actstore.open(tmp_path / "copy").commits) == 4
    assert read == []


def test_what_was_added_or_touched_is_read(path, read):
    (path / "commits" / "b00000003.json").touch()
    assert len(actstore.open(path).commits) == 4
    assert read == ["b00000003.json"]


def test_batches_after_the_checkpoint_are_read(tmp_path, monkeypatch, read):
    monkeypatch.setattr(checkpoint, "MANY", 2)
    store = making.create(tmp_path / "s", 4)
    for batch in range(3):
        store.write(batch, **making.content(batch))
    time.sleep(0.05)
    checkpoint.write(store.path, store.header)
    store.write(3, **making.content(3))
    read.clear()
    assert len(actstore.open(store.path).commits) == 4
    assert read == ["b00000003.json"]


def test_few_batches_have_none(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MANY", 4)
    actstore.open(path).write_index()
    assert not (path / "commits.checkpoint").exists()


def test_a_compaction_is_seen(path):
    from actstore.maintain import compaction

    (done,) = compaction.compact(path)
    assert [commit.name for commit in actstore.open(path).commits] == [done.name]
    assert not (path / "commits.checkpoint").exists()  # nothing is left for it to say


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


def lied(file):
    """Whole, but it says of a batch what its record does not."""
    owner, *lines = file.read_bytes().partition(b"\n")[2].splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"rows":9', b'"rows":8')
    content = b"".join([owner, *lines])
    file.write_bytes(f"{local.crc32c_of(content)}\n".encode() + content)


def foreign(file):
    """Of another store, which has the same batches."""
    other = making.store(file.parent.parent / "other", 4, "float16")
    checkpoint.write(other.path, other.header)
    (other.path / file.name).replace(file)


@pytest.mark.parametrize("damage", [flip, truncate, lambda file: file.write_bytes(b""), link, lied, foreign])
def test_a_damaged_checkpoint_is_not_used_and_named(path, read, damage):
    expected = actstore.open(path).commits
    damage(path / "commits.checkpoint")
    read.clear()
    assert actstore.open(path).commits == expected
    assert read
    (problem,) = verify.run(verify.steps(path))
    assert problem.file == "commits.checkpoint"
    assert damaged.advice(path, [problem]).startswith(f"remove {path}/commits.checkpoint")


def test_what_a_checkpoint_says_is_checked_as_a_record(path, read):
    """That of a stranger, behind a right checksum, whose records are as it says in size."""
    file, record = path / "commits.checkpoint", making.record(path, 2)
    owner, *lines = file.read_bytes().partition(b"\n")[2].splitlines(keepends=True)
    name, _, line = lines[2].partition(b" ")
    part = json.loads(line)["part"].encode()
    lines[2] = name + b" " + line.replace(part, b"../../../xxxxxxxxx"[: len(part)].ljust(len(part), b"x"))
    content = b"".join([owner, *lines])
    file.write_bytes(f"{local.crc32c_of(content)}\n".encode() + content)
    assert {commit.part for commit in actstore.open(path).commits} == {
        entry.name for entry in (path / "parts").iterdir()
    }
    assert read == [record.name]


def test_where_none_can_be_written(path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = (path / "commits.checkpoint").read_bytes()
    monkeypatch.setattr(os, "utime", full)
    actstore.open(path).write_index()
    assert (path / "commits.checkpoint").read_bytes() == before
    assert not list(path.glob(".*"))
