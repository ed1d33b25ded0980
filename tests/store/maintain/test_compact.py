"""actstore compact: fewer parts, the same rows, whoever reads, writes or compacts meanwhile."""

import os
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import AlreadyCommittedError, CorruptError
from actstore.commands import main
from actstore.format import commits, records
from actstore.maintain import compaction, orphans, verify
from actstore.write import drafts
from forked import processes


def contents(store):
    """Rows, samples, vectors and attention by name: what must not change."""
    rows = store.sql("select * exclude (place) from rows order by row_id")
    found = {"rows": rows, "samples": store.sql("from samples order by sample_id")}
    for layer in making.LAYERS:
        found[f"vectors {layer}"] = pl.DataFrame(store.residual(rows, layer))
        values, samples = store.attention("eoi", layer)
        attention = samples.select("sample_id").with_columns(a=pl.Series(values.reshape(len(values), -1).tolist()))
        found[f"attention {layer}"] = attention.sort("sample_id")
    return found


def same(one, other):
    return all(one[name].equals(other[name], null_equal=True) for name in one)


def parts(store):
    return [commit.name for commit in actstore.open(store.path).commits]


def age(path, hours):
    """Make a compaction look as if it had been written some hours ago."""
    making.change(path, written=(datetime.now(UTC) - timedelta(hours=hours)).isoformat())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_before_during_and_after_the_rows_are_the_same(tmp_path, dtype):
    before = making.store(tmp_path / "s", 4, dtype)
    expected = contents(before)
    (done,) = compaction.compact(before.path)
    assert (done.name, done.batches, done.rows) == ("c00000000.json", (0, 1, 2, 3), 36)
    assert done.replaces == tuple(f"b0000000{batch}.json" for batch in range(4))
    assert done.part.startswith("c00000000-")
    assert same(contents(before), expected)  # a reader who opened it before
    after = actstore.open(before.path)
    assert same(contents(after), expected)
    assert len(after.parts) == 1
    assert after.sql("select batch from parts")["batch"].to_list() == [0, 1, 2, 3]
    assert after.remaining == []
    assert verify.run(verify.steps(after.path)) == []
    assert after.sql("select place from rows where role = 'eoi' order by row_id")["place"].to_list() == list(range(12))
    assert list(compaction.compact(after.path)) == []
    with pytest.raises(AlreadyCommittedError, match="batch 1 is committed already"):
        after.write(1, **making.content(1))


def test_parts_of_a_store_that_is_still_written(tmp_path):
    store = making.create(tmp_path / "s", 5)
    for batch in (0, 2, 4):
        store.write(batch, **making.content(batch))
    assert len(list(compaction.compact(store.path))) == 1
    for batch in (1, 3):
        store.write(batch, **making.content(batch))
    assert parts(store) == ["c00000000.json", "b00000001.json", "b00000003.json"]
    assert [commit.batches for commit in compaction.compact(store.path)] == [(0, 1, 2, 3, 4)]
    assert parts(store) == ["c00000001.json"]
    assert same(contents(actstore.open(store.path)), contents(making.store(tmp_path / "other", 5)))
    assert verify.run(verify.steps(store.path)) == []


def test_merged_parts_are_as_large_as_wanted(tmp_path):
    store = making.store(tmp_path / "s", 6)
    size = max(commit.bytes for commit in store.commits)
    assert list(compaction.compact(store.path, part_bytes=size)) == []  # each has more than half of it
    merged = list(compaction.groups(store, int(2.5 * size)))
    assert [[part.commit.batches[0] for part in group] for group in merged] == [[0, 1], [2, 3], [4, 5]]
    list(compaction.compact(store.path, part_bytes=int(2.5 * size)))
    assert all(commit.bytes <= 2.5 * size for commit in actstore.open(store.path).commits)


def test_a_large_store_has_few_parts_and_files(tmp_path, monkeypatch):
    """As one of many terabytes, of which nothing is small: its parts are larger, some 500 (here: 5)."""
    store = making.store(tmp_path / "s", 40)
    monkeypatch.setattr(compaction, "PART_BYTES", store.commits[0].bytes)
    assert list(compaction.groups(store, compaction.PART_BYTES)) == []
    monkeypatch.setattr(compaction, "PARTS", 5)
    list(compaction.compact(store.path))
    after = actstore.open(store.path)
    assert 5 <= len(after.parts) <= 10  # what has half of the size, or more, is left
    assert same(contents(after), contents(making.store(tmp_path / "other", 40)))
    assert list(compaction.compact(store.path)) == []
    sizes = [commit.bytes for commit in after.commits]
    assert max(sizes) <= compaction.part_bytes_of(store)
    for path in orphans.find(store.path, older_than=0):
        assert path.replaced  # what gc removes a day later


def test_attention_of_other_lengths_is_padded_and_of_other_heads_left_apart(tmp_path):
    store = making.create(tmp_path / "s", 4)
    for batch, change in enumerate([lambda a: a, lambda a: a[..., :3], lambda a: a[:, :, :1], lambda a: a[:, :, :1]]):
        content = making.content(batch)
        content["attention"] = {"eoi": change(content["attention"]["eoi"])}
        store.write(batch, **content)
    assert [commit.batches for commit in compaction.compact(store.path)] == [(0, 1), (2, 3)]
    (first, _) = actstore.open(store.path).parts
    values = first.array("attention/eoi").layer(1)
    assert_array_equal(values[:4], making.columns(0)[1])
    assert_array_equal(values[4:, :, :3], making.columns(1)[1, ..., :3])
    assert np.isnan(values[4:, :, 3]).all()


def test_a_role_that_only_some_parts_have(tmp_path):
    store = making.create(tmp_path / "s", 2)
    store.write(0, **making.content(0))
    content = making.content(1)
    content["rows"] = content["rows"].filter(pl.col("role") == "eoi")
    del content["residual"]["image"]
    store.write(1, **content)
    list(compaction.compact(store.path))
    store = actstore.open(store.path)
    rows = store.sql("from rows")
    assert dict(rows.group_by("role").len().rows()) == {"eoi": 6, "image": 6}
    assert verify.run(verify.steps(store.path)) == []
    place = pl.col("place") - 3 * ((pl.col("role") == "eoi") & (pl.col("row_id") >= 1 << 32)).cast(pl.Int32)
    assert_array_equal(store.residual(rows, 2), making.expected(rows.with_columns(place), 2))


def test_who_loses_the_race_begins_again(tmp_path, monkeypatch):
    store = making.store(tmp_path / "s", 4)
    slow, fast = compaction.merge, []

    def overtaken(opened, number, chosen):
        if not fast:
            fast.append(slow(actstore.open(store.path), number, chosen[:2]))
        return slow(opened, number, chosen)

    monkeypatch.setattr(compaction, "merge", overtaken)
    assert [commit.name for commit in compaction.compact(store.path)] == ["c00000001.json"]
    assert fast[0].batches == (0, 1)
    assert parts(store) == ["c00000001.json"]
    assert orphans.find(store.path, older_than=0) == []
    assert verify.run(verify.steps(store.path)) == []


def _compact(path):
    for _ in range(6):
        list(compaction.compact(path))
    os._exit(0)


def _write(path, first):
    store = actstore.open(path)
    for batch in range(first, 12, 2):
        store.write(batch, **making.content(batch))
    os._exit(0)


def test_racing_compactions_writers_and_a_reader(tmp_path):
    path = making.create(tmp_path / "s", 12).path
    work = [(_compact, (path,)), (_compact, (path,)), (_write, (path, 0)), (_write, (path, 1))]
    running = [processes.Process(target=target, args=arguments) for target, arguments in work]
    for process in running:
        process.start()
    while any(process.is_alive() for process in running):
        found = actstore.open(path).sql("select row_id >> 32 as batch, count(*) n from rows group by all")
        assert set(found["n"].to_list()) <= {9}
    for process in running:
        process.join()
        assert process.exitcode == 0
    store = actstore.open(path)
    assert store.remaining == []
    assert same(contents(store), contents(making.store(tmp_path / "other", 12)))
    assert verify.run(verify.steps(path)) == []
    assert orphans.find(path, older_than=0) == []


def test_a_damaged_part_is_not_merged(tmp_path):
    store = making.store(tmp_path / "s")
    shard = store.parts[1].folder / "residual" / "eoi" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptError, match="b00000001-.*differs from what was committed"):
        list(compaction.compact(store.path))
    assert len(parts(store)) == 3
    assert orphans.find(store.path, older_than=0) == []


# What was replaced, and its removal


def test_gc_removes_replaced_parts_after_a_day_and_no_sooner(tmp_path):
    store = making.store(tmp_path / "s")
    expected = contents(store)
    (done,) = compaction.compact(store.path)
    assert orphans.find(store.path, older_than=0) == []
    age(store.path / "commits" / done.name, 23.9)
    assert orphans.find(store.path, older_than=0) == []
    age(store.path / "commits" / done.name, 24.1)
    assert orphans.find(store.path, older_than=48) == []
    found = orphans.find(store.path, older_than=0)
    assert [orphan.path.name for orphan in found] == [part.commit.part for part in store.parts]
    assert all(orphans.remove(orphan) for orphan in found)
    assert orphans.find(store.path, older_than=0) == []
    after = actstore.open(store.path)
    assert [path.name for path in (store.path / "parts").iterdir()] == [done.part]
    assert len(list((store.path / "commits").iterdir())) == 4  # records stay
    assert same(contents(after), expected)
    assert verify.run(verify.steps(store.path)) == []


def test_gc_keeps_replaced_parts_when_the_merged_one_is_damaged(tmp_path):
    store = making.store(tmp_path / "s")
    (done,) = compaction.compact(store.path)
    age(store.path / "commits" / done.name, 100)
    rows = store.path / "parts" / done.part / "rows.parquet"
    content = bytearray(rows.read_bytes())
    content[40] ^= 1
    rows.write_bytes(content)
    with pytest.raises(CorruptError, match=r"rows\.parquet: its bytes differ from the committed ones"):
        orphans.find(store.path)


def test_gc_keeps_replaced_parts_when_a_folder_of_the_merged_one_is_a_link(tmp_path):
    store = making.store(tmp_path / "s")
    (done,) = compaction.compact(store.path)
    age(store.path / "commits" / done.name, 100)
    folder = store.path / "parts" / done.part / "residual"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptError, match="residual: not a plain folder; a store holds no links"):
        orphans.find(store.path)


@pytest.mark.parametrize("written", ["yesterday", "", "2026-01-01T00:00:00", "9999-01-01T00:00:00+00:00"])
def test_gc_takes_no_strange_time_for_a_day_ago(tmp_path, written):
    store = making.store(tmp_path / "s", 2)
    (done,) = compaction.compact(store.path)
    making.change(store.path / "commits" / done.name, written=written)
    assert orphans.find(store.path, older_than=0) == []


def test_a_compaction_that_died_is_removed(tmp_path):
    store = making.store(tmp_path / "s", 2)
    with drafts.Draft(store.path, 0, "c") as draft:
        (draft.folder / "rows.parquet").write_bytes(b"PAR1")
        assert orphans.find(store.path, older_than=0) == []
        list(compaction.compact(store.path))
        draft.discard = lambda: os.close(draft._lock)
    (found,) = orphans.find(store.path, older_than=0)
    assert found.path == draft.folder
    assert orphans.remove(found)
    assert len(parts(store)) == 1


def test_a_folder_listed_while_others_add_to_it(tmp_path, monkeypatch):
    """A compaction is seen, but not yet what it replaces."""
    store = making.store(tmp_path / "s")
    list(compaction.compact(store.path))
    names, calls = commits.names, []

    def partly(path):
        calls.append(path)
        return [name for name in names(path) if len(calls) > 1 or name != "b00000001.json"]

    monkeypatch.setattr(commits, "names", partly)
    assert actstore.open(store.path).sql("from rows").height == 27


# The command


def test_the_command(tmp_path, capfdbinary):
    path = making.store(tmp_path / "s").path
    assert main.run(["compact", str(path), "--size", "0"]) == 0
    assert main.run(["compact", str(path)]) == 0
    out, err = capfdbinary.readouterr()
    assert re.fullmatch(rb"c00000000\.json: 3 parts, 0\.0 MB\n", out)
    assert err.decode().splitlines() == [
        f"{path}: 0 merged parts written; none is left to merge",
        f"{path}: 1 merged parts written; none is left to merge",
    ]
    assert records.load(path / "commits" / "c00000000.json")["by"] == {"by": "actstore compact"}
