"""push and pull: what arrives, in which order, and what goes wrong on the way."""

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import actstore
import leading
import lenses
import making
from actstore.commands.main import run
from actstore.errors import ActstoreError, CorruptError, NotAStoreError
from actstore.maintain import verify
from actstore.maintain.pulling import pull
from actstore.maintain.pushing import push
from actstore.storage import objects
from buckets import Fault, bucket
from leading import URL

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "objects.md"


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PAUSES", (0.0, 0.01, 0.01))
    with bucket() as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        yield found


@pytest.fixture
def made(tmp_path):
    return making.store(tmp_path / "s", 2).path


def puts(served):
    return [key.removeprefix("runs/s/") for method, key in served.took() if method == "PUT"]


def test_what_is_pulled_is_what_was_pushed(made, served, tmp_path):
    """File by file and byte by byte, with the results of both sides."""
    opened = actstore.open(made)
    opened.save_result("count", opened.sql("select 1 as n"), {})
    assert push(made, URL).commits == 2
    far_store = actstore.open(URL)
    far_store.save_result("count", opened.sql("select 2 as n"), {"k": 2})
    copy = pull(URL, tmp_path / "copy")
    saved = next(one.path for one in far_store.results() if one.parameters)
    assert making.contents(copy.path) == making.contents(made) | {f"results/{saved.name}": saved.read_bytes()}
    assert verify.run(verify.steps(copy.path)) == []


def test_records_come_after_files_and_the_header_last(made, served):
    push(made, URL)
    sent = [name.partition("/")[0] for name in puts(served) if not name.startswith("probe")]
    order = ["plan.parquet", "vocab.parquet", "parts", "commits", "commits.checkpoint", "tables.tar", "actstore.json"]
    assert list(dict.fromkeys(sent)) == order
    assert [key for key in served.objects if "probe" in key] == []


def test_only_what_is_new_is_sent(tmp_path, served):
    made = making.create(tmp_path / "s", 2)
    made.write(0, **making.content(0))
    push(made.path, URL)
    puts(served)
    assert push(made.path, URL).files == 0
    assert puts(served) == ["commits.checkpoint", "tables.tar"]
    commit = made.write(1, **making.content(1))
    sent = push(made.path, URL)
    assert (sent.files, sent.bytes, sent.commits) == (len(commit.files), commit.bytes, 1)
    assert {name.split("/")[1] for name in puts(served) if name.startswith("parts/")} == {commit.part}


def test_a_push_that_is_interrupted_goes_on(made, served):
    """Refused at some of its writes in turn: until the last nobody sees a store, and the next push completes it."""
    push(made, URL)
    whole, sent = dict(served.objects), [name for name in puts(served) if "probe" not in name]
    for name in [*sent[::4], *sent[-4:]]:
        served.objects.clear()
        served.faults.append(Fault(403, "PUT", name))
        with pytest.raises(ActstoreError, match=f"{URL}/{name}: not allowed"):
            push(made, URL)
        with pytest.raises(NotAStoreError):
            actstore.open(URL)
        push(made, URL)
        assert served.objects == whole


def test_another_store_is_left_alone(made, served, tmp_path):
    push(made, URL)
    before = dict(served.objects)
    other = making.create(tmp_path / "other", run={"model": "other"})
    with pytest.raises(ActstoreError, match=f"{URL} is another store than .*other; push to another place"):
        push(other.path, URL)
    assert served.objects == before
    served.objects.pop("runs/s/actstore.json")  # as if the push before had been interrupted
    served.objects["runs/s/plan.parquet"] = b"of another plan"
    with pytest.raises(ActstoreError, match="plan.parquet: exists already, with other bytes; choose another prefix"):
        push(made, URL)
    served.objects.update(before)
    with pytest.raises(ActstoreError, match=f"{tmp_path}/other is another store; choose another folder"):
        pull(URL, tmp_path / "other")


def test_what_is_damaged_there_is_told_and_mended(made, served, capfd):
    """As the advice says it: removed there, and pushed again."""
    push(made, URL)
    whole = dict(served.objects)
    key = next(key for key in whole if key.endswith("residual/eoi/c/0/0/0"))
    served.objects[key] = whole[key][:-1] + bytes([whole[key][-1] ^ 1])
    assert run(["verify", URL]) == 1
    said = "".join(capfd.readouterr())
    assert f"{URL}: 1 of 20 checks failed" in said
    assert key.removeprefix("runs/s/") in said
    assert f"actstore push FOLDER {URL}" in said
    del served.objects[key]
    push(made, URL)
    assert served.objects == whole
    assert run(["verify", URL]) == 0


def test_who_makes_a_store_second_leaves_the_lens_of_the_first(tmp_path, served):
    """Two stores of one plan, made at the same time: neither sees the other's header yet."""
    lens = lenses.made(d=making.D_MODEL)
    first = making.create(tmp_path / "first", 1, lens=lens, dtype="float32")
    second = making.create(tmp_path / "second", 1, lens=replace(lens, weight=-lens.weight), dtype="float32")
    push(first.path, URL)
    header = served.objects.pop("runs/s/actstore.json")
    before = dict(served.objects)
    with pytest.raises(ActstoreError, match="lens/.*: exists already, with other bytes; choose another prefix"):
        push(second.path, URL)
    assert served.objects == before
    push(first.path, URL)
    assert served.objects == before | {"runs/s/actstore.json": header}
    assert (actstore.open(URL).lens.weight == first.lens.weight).all()


@pytest.mark.parametrize("name", ["plan.parquet", "vocab.parquet", "lens/unembedding.bin"])
def test_what_was_removed_of_the_header_is_sent_again(tmp_path, served, name):
    store = making.create(tmp_path / "s", 1, lens=lenses.made(d=making.D_MODEL), dtype="float32")
    push(store.path, URL)
    before = dict(served.objects)
    del served.objects[f"runs/s/{name}"]
    push(store.path, URL)
    assert served.objects == before


def test_another_writers_record_is_left_alone(made, served, monkeypatch):
    """Who was first after the records were listed."""
    push(made, URL)
    theirs = served.objects["runs/s/commits/b00000001.json"].replace(b"written", b"WRITTEN")
    served.objects["runs/s/commits/b00000001.json"] = theirs
    listed = objects.Objects.listed
    monkeypatch.setattr(
        objects.Objects, "listed", lambda self, folder: {} if folder == "commits" else listed(self, folder)
    )
    with pytest.raises(ActstoreError, match="b00000001.json: exists already, with other bytes; another writer"):
        push(made, URL)
    assert served.objects["runs/s/commits/b00000001.json"] == theirs


def test_what_was_written_there_and_here_is_not_mixed(tmp_path, served):
    """Two copies of a store in which the same batches were written: as large records of other parts."""
    one = making.create(tmp_path / "one", 4)
    two = actstore.open(shutil.copytree(one.path, tmp_path / "two"))
    for store in (one, two):
        for batch in range(4):
            store.write(batch, **making.content(batch))
    push(one.path, URL)
    before, state = dict(served.objects), actstore.open(one.path).state
    with pytest.raises(ActstoreError, match="b00000000.json: exists already, with other bytes; another writer"):
        push(two.path, URL)
    assert served.objects == before
    assert actstore.open(URL).state == state
    del served.objects["runs/s/commits.checkpoint"]
    with pytest.raises(ActstoreError, match="b00000000.json: exists already, with other bytes; another writer"):
        push(two.path, URL)
    assert push(one.path, URL).commits == 0
    assert served.objects == before


@pytest.mark.parametrize("kind", ["lost", 409, 500, 503])
def test_answers_that_are_lost_and_conflicts_are_settled_by_reading(made, served, kind):
    served.faults.append(Fault(kind, "PUT", "commits/b00000000"))
    push(made, URL)
    assert served.faults[0].times == 0
    assert served.objects["runs/s/commits/b00000000.json"] == making.record(made, 0).read_bytes()
    assert len(actstore.open(URL).parts) == 2


def test_a_server_without_conditions_is_no_place_for_records(made, served):
    served.ignores = True
    with pytest.raises(ActstoreError, match="this server ignores If-None-Match"):
        push(made, URL)
    assert served.objects == {}


def test_what_is_damaged_here_is_not_sent(made, served):
    shard = next(made.rglob("residual/eoi/c/0/0/0"))
    content = shard.read_bytes()
    shard.write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
    with pytest.raises(CorruptError, match="residual/eoi/c/0/0/0: its bytes differ"):
        push(made, URL)
    assert not any("commits" in key or "actstore.json" in key for key in served.objects)


def test_a_pull_that_is_interrupted_goes_on(made, served, tmp_path):
    push(made, URL)
    keys = [key for key in served.objects if key.endswith(("zarr.json", "/c/0/0/0"))]
    for number, key in enumerate(keys[::3]):
        served.faults.append(Fault(403, "GET", key))
        with pytest.raises(ActstoreError, match=f"{key.replace('runs/s', URL)}: not allowed"):
            pull(URL, tmp_path / str(number))
        with pytest.raises(NotAStoreError):
            actstore.open(tmp_path / str(number))
        assert making.contents(pull(URL, tmp_path / str(number)).path) == making.contents(made)


def test_a_store_that_grew_is_pulled_into_its_folder(made, served, tmp_path):
    store = making.create(tmp_path / "grows", 2)
    store.write(0, **making.content(0))
    push(store.path, URL)
    pull(URL, tmp_path / "copy")
    store.write(1, **making.content(1))
    push(store.path, URL)
    assert making.contents(pull(URL, tmp_path / "copy").path) == making.contents(store.path)


def test_a_folder_of_something_else_is_left_alone(made, served, tmp_path):
    push(made, URL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ActstoreError, match=r"thesis.tex is of no store; choose another folder"):
        pull(URL, tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_web_server_takes_nothing(made, served):
    with pytest.raises(ActstoreError, match="takes no files; push to s3://.*or to the Hub: hf://"):
        push(made, f"{served.url}/b/s")


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capfd):
    """docs/howto/objects.md, on a small store."""
    making.store(tmp_path / "demo" / "fusion", 2)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```\n(actstore push.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with bucket("my-bucket") as served:
        leading.point(monkeypatch, served, tmp_path / "cache")
        for line in block.splitlines():
            assert run(shlex.split(line)[1:]) == 0, (line, capfd.readouterr().err)
        written = making.contents(tmp_path / "cache") | making.contents(tmp_path / "fusion-copy") | served.objects
    said = "".join(capfd.readouterr())
    assert "s3://my-bucket/fusion: 16 files sent" in said
    assert (tmp_path / "outliers.csv").read_text().startswith("role,")
    assert leading.SECRET not in said
    assert [name for name, content in written.items() if leading.SECRET.encode() in content] == []
