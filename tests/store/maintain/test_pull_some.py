"""pull --roles --layers: a store of its own, which says what it holds, with the numbers of the whole one."""

import re

import numpy as np
import pytest

import actstore
import leading
import making
from actstore.commands.info import summary
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore.maintain import compaction, verify
from actstore.maintain.pulling import pull
from actstore.maintain.pushing import push
from actstore_extract.run.resume import check_same
from buckets import Fault, bucket
from leading import URL


@pytest.fixture
def served(tmp_path, monkeypatch):
    with bucket() as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        yield found


@pytest.fixture
def whole(tmp_path, served):
    """A store at the URL with keys and values, a compaction of two of its batches, and a third one."""
    store = making.create(tmp_path / "s", 3, blocks=making.BLOCKS)
    for batch in (0, 1):
        store.write(batch, **making.kv_content(batch))
    assert len(list(compaction.compact(store.path))) == 1
    actstore.open(store.path).write(2, **making.kv_content(2))
    push(store.path, URL)
    return actstore.open(store.path)


def check(folder):
    assert verify.run(verify.steps(folder)) == []
    return actstore.open(folder)


@pytest.mark.parametrize(
    ("roles", "layers", "kept", "paired", "blocks"),
    [
        (["eoi"], [1], ["eoi"], [], ()),
        (["image"], None, ["image"], ["image"], (0, 1)),
        (["prefix", "eoi"], [-1, 1], ["eoi"], ["prefix"], (1,)),
        (None, [2], ["eoi", "image"], [], ()),
        (None, [0], ["eoi", "image"], ["image", "prefix"], (0,)),
    ],
)
def test_what_is_pulled_equals_the_whole(whole, tmp_path, roles, layers, kept, paired, blocks):
    """Rows by their row_id, and of each every number that is kept, bit for bit."""
    store = check(pull(URL, tmp_path / "some", roles=roles, layers=layers).path)
    points = tuple(sorted(range(3)[layer] for layer in layers or range(3)))
    assert (store.roles, store.kv, store.layers, store.blocks) == (kept, paired, points, blocks)
    assert [commit.batches for commit in store.commits] == [(0,), (1,), (2,)]
    assert store.plan.equals(whole.plan)
    assert store.sql("from samples order by all").equals(whole.sql("from samples order by all"))
    chosen = (
        "from rows where " + " or ".join(f"role = '{role}'" for role in sorted({*kept, *paired})) + " order by row_id"
    )
    rows = store.sql("from rows order by row_id")
    assert rows.drop("place", strict=False).equals(whole.sql(chosen).drop("place", strict=False))
    for role in kept:
        ids = whole.sql(f"from rows where role = '{role}'")
        for layer in points:
            assert np.array_equal(store.residual(ids, layer), whole.residual(ids, layer))
    for role in paired:
        ids = whole.sql(f"from rows where role = '{role}'")
        for block in blocks:
            assert np.array_equal(store.keys(ids, block), whole.keys(ids, block))
            assert np.array_equal(store.values(ids, block), whole.values(ids, block))
    if "eoi" in kept:
        ids = whole.sql("from rows where role = 'eoi' order by row_id")
        for layer in points:
            a, b = (one.attention("eoi", layer, ids).values for one in (store, whole))
            assert np.array_equal(a, b, equal_nan=True)


def test_a_measure_of_it_is_that_of_the_whole(whole, tmp_path):
    asked = {"roles": ["image"], "layers": [0, 2]}
    store = pull(URL, tmp_path / "some", **asked)
    mine, theirs = (one.measure.outliers(**asked).table for one in (store, whole))
    assert mine.height
    assert mine.equals(theirs)


def test_what_is_not_asked_for_is_not_fetched(whole, served, tmp_path):
    """A layer of a role: of each shard its index, and a stretch for each batch, and no file of another role."""
    served.took()
    pull(URL, tmp_path / "some", roles=["eoi"], layers=[1])
    keys = [key.removeprefix("runs/s/") for _, key in served.took() if "/parts/" in key]
    shards = [len(part.commit.batches) for part in whole.parts for _ in ("residual", "attention")]
    assert len(keys) == sum(1 + n_batches for n_batches in shards)
    assert {re.sub("^parts/[^/]*/", "", key) for key in keys} == {"residual/eoi/c/0/0/0", "attention/eoi/c/0/0/0/0"}


def test_the_store_says_of_what_it_is(whole, tmp_path):
    command = ["pull", URL, str(tmp_path / "some"), "--roles", "image,eoi", "--layers", "-1"]
    assert run(command) == 0
    store = check(tmp_path / "some")
    pulled = {"from": URL, "store": whole.header.crc32c, "roles": ["eoi", "image"], "layers": [2]}
    assert store.run == {**whole.run, "pulled": pulled}
    assert re.search(f"pulled +eoi, image of {URL}, at these layers", summary(store))
    push(store.path, "s3://b/again")
    again = check(pull("s3://b/again", tmp_path / "again", roles=["eoi"]).path)
    assert again.run["pulled"]["pulled"] == pulled


def test_one_that_is_interrupted_goes_on_and_what_grew_is_added(tmp_path, served):
    made = making.create(tmp_path / "s", 3)
    for batch in (0, 1):
        made.write(batch, **making.content(batch))
    push(made.path, URL)
    part = next(commit.part for commit in actstore.open(made.path).commits if commit.batches == (1,))
    served.faults.append(Fault(403, "GET", f"{part}/residual/image"))
    with pytest.raises(ActstoreError, match=f"{part}/residual/image.*not allowed"):
        pull(URL, tmp_path / "some", roles=["image"])
    assert not (tmp_path / "some" / "actstore.json").exists()
    first = {file: file.read_bytes() for file in making.files(tmp_path / "some")}
    assert len(check(pull(URL, tmp_path / "some", roles=["image"]).path).parts) == 2
    assert all(file.read_bytes() == content for file, content in first.items())
    made.write(2, **making.content(2))
    push(made.path, URL)
    assert len(check(pull(URL, tmp_path / "some", roles=["image"]).path).parts) == 3
    with pytest.raises(ActstoreError, match="some is another store; choose another folder"):
        pull(URL, tmp_path / "some", roles=["eoi"])
    list(compaction.compact(made.path))
    push(made.path, URL)
    with pytest.raises(ActstoreError, match="batch 0 was compacted or repaired there since it was pulled"):
        pull(URL, tmp_path / "some", roles=["image"])


def test_another_choice_that_was_interrupted_is_not_mixed_in(whole, tmp_path):
    store = pull(URL, tmp_path / "some", roles=["image"])
    (store.path / "actstore.json").unlink()
    with pytest.raises(ActstoreError, match="holds what was pulled with another choice; choose another folder"):
        pull(URL, tmp_path / "some", roles=["eoi"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--roles", "eio"], f"no role 'eio' in {URL}; did you mean 'eoi'? It has eoi, image, prefix"),
        (["--layers", "3"], "layer 3 is not in this store; it has 0..2"),
        (["--roles", "prefix", "--layers", "2"], f"of role 'prefix' in {URL} nothing is kept at layers 2"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_written(whole, tmp_path, capfd, options, said):
    assert run(["pull", URL, str(tmp_path / "some"), *options]) != 0
    assert said in capfd.readouterr().err
    assert not (tmp_path / "some").exists()


def test_it_is_not_gone_on_with(whole, tmp_path):
    store = pull(URL, tmp_path / "some", roles=["eoi"])
    with pytest.raises(ActstoreError, match=f"holds some roles or layers of {URL}, and is not gone on with; pull all"):
        check_same(store, {}, {})
    whole.header.check_whole(whole.path)
