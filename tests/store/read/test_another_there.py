"""Another store at a URL than the one that was read before: the whole of it, or an error, and never some of both."""

import hashlib
import shutil

import numpy as np
import pytest

import actstore
import leading
import making
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore.maintain.pushing import push
from actstore.read import mirror
from buckets import Memory, bucket
from leading import URL

PARTS = 4
COMMITS = "runs/s/commits/"


def grown(folder, to, start):
    """A copy of a store of one batch that has PARTS since; vectors and attention of the others begin at `start`."""
    shutil.copytree(folder, to)
    store = actstore.open(to)
    for batch in range(1, PARTS):
        content = making.content(batch)
        kinds = {
            kind: {role: array + start for role, array in content[kind].items()} for kind in ("residual", "attention")
        }
        store.write(batch, **(content | kinds))
    return actstore.open(to)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """One store, copied and grown apart: the same header, the same names of records, and sizes."""
    root = tmp_path_factory.mktemp("two")
    first = making.create(root / "first", PARTS)
    first.write(0, **making.content(0))
    found = grown(root / "first", root / "a", 0), grown(root / "first", root / "b", 8)
    sizes = [[path.stat().st_size for path in sorted((one.path / "commits").iterdir())] for one in found]
    assert sizes[0] == sizes[1]
    assert found[0].header.crc32c == found[1].header.crc32c
    return found


@pytest.fixture
def served(tmp_path, monkeypatch):
    with bucket(behind=Memory) as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        monkeypatch.setattr(mirror, "SMALL", 2**20)  # shards are kept
        yield found


def everything(store):
    """All that a reader can ask for, as plain values."""
    rows = store.sql("from rows order by row_id")
    kinds = {layer: store.residual(rows, layer).tolist() for layer in store.layers}
    attention = np.nan_to_num(store.attention("eoi", 1).values).tolist()
    return kinds, attention, rows.rows(), store.sql("from samples order by all").rows(), store.state


def opaque(content):
    """Tags of Azure, say."""
    return f"0x8D{hashlib.sha256(content).hexdigest()[:15].upper()}"


def encrypted(content):
    """Tags of S3 with a customer's keys: like a digest, and none."""
    return hashlib.md5(b"key" + content).hexdigest()


def pushed(served, store):
    served.objects.clear()
    push(store.path, URL)


def copied(served, store):
    served.objects.clear()
    leading.fill(served, store.path)


def synced(served, store):
    """By a tool that removes nothing: the checkpoint and the tables of the one before stay."""
    leading.fill(served, store.path)


@pytest.mark.parametrize("tag", [None, opaque, encrypted])
@pytest.mark.parametrize("put", [pushed, copied, synced])
def test_a_store_that_grew_otherwise_is_read_as_it_is_there(two, served, put, tag):
    served.tag = tag or served.tag
    pushed(served, two[0])
    truths = [everything(one) for one in two]
    assert everything(actstore.open(URL)) == truths[0]
    put(served, two[1])
    assert everything(actstore.open(URL)) == truths[1]
    served.took()
    again = actstore.open(URL)
    assert len(served.took()) == 2
    assert everything(again) == truths[1]
    pushed(served, two[0])
    assert everything(actstore.open(URL)) == truths[0]


@pytest.mark.parametrize("tag", [None, opaque, encrypted])
def test_requests_do_not_grow(two, served, tmp_path, tag):
    """What tells them apart is in the list; where tags are no digests, one record is compared with the checkpoint."""
    served.tag = tag or served.tag
    pushed(served, two[0])
    for _ in range(2):
        served.took()
        actstore.open(URL)
        taken = [key for _, key in served.took()]
        assert taken[:3] == ["runs/s/actstore.json", COMMITS, "runs/s/commits.checkpoint"]
        assert taken[3:] == ([] if tag is None else [f"{COMMITS}b00000003.json"])
        actstore.open(URL)
        assert len(served.took()) == 2
        leading.forget(tmp_path / "cache")


def test_a_web_server_with_another(two, served):
    """Its checkpoint says which records there are, and it is fetched each time."""
    url = f"{served.url}/b/runs/s"
    for one in (*two, two[0]):
        pushed(served, one)
        served.took()
        opened = actstore.open(url)
        assert len(served.took()) == 2
        assert everything(opened) == everything(one)


def test_a_checkpoint_of_another_is_no_word_of_what_is_there(two, served, tmp_path):
    """Whether it was left by a push before, or put there alone."""
    for tag in (served.tag, opaque, encrypted):
        served.tag = tag
        leading.forget(tmp_path / "cache")
        pushed(served, two[0])
        left = served.objects["runs/s/commits.checkpoint"]
        pushed(served, two[1])
        served.objects["runs/s/commits.checkpoint"] = left
        assert everything(actstore.open(URL)) == everything(two[1])


@pytest.mark.parametrize("tag", [None, encrypted])
def test_two_places_that_answer_by_turns(two, served, tag):
    """The list is of one and a record of the other."""
    served.tag = tag or served.tag
    kept = []
    for one in two:
        copied(served, one)
        kept.append(dict(served.objects))
    served.objects = kept[0]
    original = Memory._get

    def get(self, key, asked, body):
        if key == f"{COMMITS}b00000002.json":
            self.bucket.objects = kept[1]
        try:
            return original(self, key, asked, body)
        finally:
            self.bucket.objects = kept[0]

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(Memory, "_get", get)
        with pytest.raises(ActstoreError, match=f"{URL}/commits/b00000002.json: is not the one that was listed"):
            actstore.open(URL)
    assert everything(actstore.open(URL)) == everything(two[0])


def test_a_record_that_is_replaced_meanwhile_is_asked_for_again(two, served):
    pushed(served, two[0])
    later = served.objects.copy()
    pushed(served, two[1])
    original = Memory._get

    def get(self, key, asked, body):
        if key.startswith(COMMITS):
            self.bucket.objects = later
        return original(self, key, asked, body)

    served.objects.pop("runs/s/commits.checkpoint")
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(Memory, "_get", get)
        assert actstore.open(URL).state == two[0].state


def test_an_empty_record_is_damage(two, served, tmp_path):
    pushed(served, two[0])
    served.objects[f"{COMMITS}b00000002.json"] = b""
    for _ in range(2):
        with pytest.raises(ActstoreError, match=f"{URL}/commits/b00000002.json: not a complete record"):
            actstore.open(URL)
        leading.forget(tmp_path / "cache")


def test_what_is_pushed_over_another_is_refused_whatever_the_checkpoint_says(two, served):
    """Records are there, and they are not these."""
    pushed(served, two[0])
    left = served.objects["runs/s/commits.checkpoint"]
    pushed(served, two[1])
    served.objects["runs/s/commits.checkpoint"] = left
    before = dict(served.objects)
    for tag in (served.tag, opaque):
        served.tag = tag
        with pytest.raises(ActstoreError, match=r"commits/b0000000\d.json: exists already, with other bytes"):
            push(two[0].path, URL)
    assert served.objects == before


@pytest.mark.parametrize("kept", ["{", "[]", '{"b00000001.json": 3}', "\xff"])
def test_tags_that_say_nothing_cost_a_request(two, served, tmp_path, kept):
    served.tag = opaque
    pushed(served, two[0])
    actstore.open(URL)
    (found,) = (tmp_path / "cache").rglob("tags")
    found.write_text(kept, encoding="latin-1")
    assert everything(actstore.open(URL)) == everything(two[0])
    assert run(["cache", "--clear"]) == 0
    assert not found.exists()
