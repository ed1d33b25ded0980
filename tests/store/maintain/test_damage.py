"""Damage of every kind to every kind of file is found, and never read as data."""

import shutil
from contextlib import suppress

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import actstore
import making
from actstore import ActstoreError
from actstore.errors import DamagedWarning
from actstore.maintain import verify
from damaging import (
    DAMAGES,
    KINDS,
    OTHER,
    delete,
    empty,
    everything,
    flip,
    foreign,
    lengthen,
    link,
    read_all,
    same,
    stale,
    swap,
    the,
    truncate,
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_and_never_read_as_data(path, original, kind, damage):
    file = the(path, KINDS[kind])
    damage(file)
    if kind == "header":
        if damage is link:
            return  # the header has no checksum elsewhere: a link to the same bytes is the same header
        if damage in (stale, swap):  # whole, but of no commit
            assert len(verify.run(verify.steps(path))) > 3
        else:
            with pytest.raises(ActstoreError):
                verify.steps(path)
    elif not (kind in ("record", "result") and damage in (delete, link)):
        assert verify.run(verify.steps(path)) != []
    try:
        found = read_all(path)
    except (ActstoreError, DamagedWarning):  # a damaged result is left out
        return
    if kind == "record" and damage is delete:
        assert actstore.open(path).remaining == [1]  # the batch is no longer there, and will be written again
    elif kind == "result" and damage is delete:
        assert actstore.open(path).results() == []
    else:
        assert same(found, read_all(original))


@pytest.mark.parametrize("kind", OTHER)
def test_files_that_changed_places_are_found(path, original, kind):
    """Of equal size, as two shards of the same shape may be."""
    one, other = the(path, KINDS[kind]), the(path, OTHER[kind])
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    if kind != "result":
        other.write_bytes(content)
    if one.read_bytes() == content:
        return
    assert verify.run(verify.steps(path)) != []
    with pytest.raises((ActstoreError, DamagedWarning)):
        read_all(path)


def test_shards_of_one_size_that_changed_places_are_not_read(path, tmp_path):
    """Whole shards, each intact, of equal size: only the committed checksums of their chunks tell them apart."""
    stores = []
    for number, name in enumerate(("one", "other")):
        store = making.create(tmp_path / name, 1)
        batch = making.content(0)
        batch["residual"] = {
            role: np.random.default_rng(number).standard_normal(array.shape, np.float32)
            for role, array in batch["residual"].items()
        }
        store.write(0, **batch)
        stores.append(actstore.open(store.path))
    mine, stale = [store.parts[0].folder / "residual/image/c/0/0/0" for store in stores]
    assert mine.stat().st_size == stale.stat().st_size
    assert mine.read_bytes() != stale.read_bytes()
    shutil.copy(stale, mine)
    assert zarr.open_array(mine.parents[3], mode="r")[0].shape == (6, 8)  # plain Zarr has nothing to object
    rows = stores[0].sql("from rows where role = 'image'")
    with pytest.raises(actstore.CorruptError, match=r"c/0/0/0: chunk 0 differs from what was committed \(crc32c\)"):
        actstore.open(stores[0].path).residual(rows, 0)


def _edit_index(file, change):
    """Change the entries (offset, size) of a shard's index and make the index' own checksum anew."""
    content = bytearray(file.read_bytes())
    start = len(content) - 4 - 3 * 16
    entries = np.frombuffer(content, "<u8", count=6, offset=start).reshape(3, 2).copy()
    content[start:-4] = change(entries).tobytes()
    content[-4:] = google_crc32c.value(bytes(content[start:-4])).to_bytes(4, "little")
    file.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[[1, 0, 2]],
        lambda entries: np.full_like(entries, 2**64 - 1),
        lambda entries: entries * 0,
        lambda entries: entries + 1,
        lambda entries: entries + np.array([[2**63, 0]], np.uint64),
    ],
    ids=["exchanged", "absent", "empty", "shifted", "far away"],
)
def test_an_index_that_was_changed_with_care_is_not_followed(path, change):
    file = the(path, KINDS["shard"])
    size = file.stat().st_size
    _edit_index(file, change)
    assert file.stat().st_size == size
    with pytest.raises(actstore.CorruptError, match=r"c/0/0/0: (chunk 0 differs|cannot be read)"):
        actstore.open(path).residual([(1 << 32) + 1], 0)


@pytest.mark.parametrize("damage", [truncate, empty, lengthen])
@pytest.mark.parametrize("kind", ["rows", "samples", "metadata", "shard", "attention"])
def test_a_part_of_another_size_is_noticed_at_opening(path, kind, damage):
    damage(the(path, KINDS[kind]))
    with pytest.raises(actstore.CorruptError, match=r"\d+ bytes, \d+ were committed; run actstore verify"):
        actstore.open(path)


@pytest.mark.parametrize("kind", ["residual/eoi", "attention/eoi"])
def test_a_chunk_that_is_lost_is_never_zeros(path, kind):
    """Plain Zarr reads a shard that is not there as NaN; actstore refuses."""
    folder = the(path, f"parts/b00000001-*/{kind}")
    shutil.rmtree(folder / "c")
    assert len(making.files(folder)) == 1
    lost = zarr.open_array(folder, mode="r")[...]
    bits = lost if lost.dtype == np.uint16 else lost.view(np.uint16)
    assert set(np.unique(bits)) == {0x7FC0 if kind == "residual/eoi" else 0x7E00}
    with pytest.raises(actstore.CorruptError, match="committed, but missing"):
        actstore.open(path)


def test_a_plan_that_is_lost_sends_nobody_to_repair(path):
    (path / "plan.parquet").unlink()
    with pytest.raises(actstore.CorruptError, match="plan.parquet: committed, but missing; restore it from a copy$"):
        _ = actstore.open(path).plan


def test_what_is_lost_after_opening(path):
    store = actstore.open(path)
    shutil.rmtree(store.parts[1].folder / "residual/eoi/c")
    with pytest.raises(actstore.CorruptError, match="c/0/0/0: committed, but missing; run actstore repair, or restore"):
        store.residual([(1 << 32) + 1], 0)


@pytest.mark.parametrize("damage", [truncate, empty, lengthen, flip, delete, link, foreign])
def test_an_index_is_never_read(path, original, damage):
    file = actstore.open(path).write_index()
    damage(file)
    assert same(read_all(path), read_all(original))


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    path = everything(tmp_path_factory.mktemp("flips") / "s", 1)
    return path, read_all(path)


@pytest.mark.parametrize("flips", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_any_flipped_bit_is_found(target, flips):
    @given(st.data())
    @settings(max_examples=flips, deadline=None)
    def flipped(data):
        _flip(*target, data)

    flipped()


def _flip(path, truth, data):
    file = data.draw(st.sampled_from(making.files(path)))
    content = file.read_bytes()
    where, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    file.write_bytes(content[:where] + bytes([content[where] ^ 1 << bit]) + content[where + 1 :])
    try:
        _flip_is_found(path, truth)
    finally:
        file.write_bytes(content)


def _flip_is_found(path, truth):
    with suppress(ActstoreError):  # the header itself
        assert verify.run(verify.steps(path)) != []
    try:
        found = read_all(path)
    except (ActstoreError, DamagedWarning):  # a damaged result is left out
        return
    assert same(found, truth)  # a file that reading has no need of, such as zarr.json


@pytest.mark.parametrize("kind", ["rows", "samples", "metadata", "shard", "plan", "vocabulary"])
def test_links_are_refused(path, kind):
    link(the(path, KINDS[kind]))
    with pytest.raises(actstore.CorruptError, match="not a plain file; a store holds no links"):
        read_all(path)
