"""push to the Hub: what arrives in which commit, the card, limits, and what goes wrong on the way."""

import datasets
import polars as pl
import pytest
from huggingface_hub import constants

import actstore
import making
from actstore.commands.main import run
from actstore.errors import ActstoreError, CorruptError, NotAStoreError
from actstore.maintain import compaction, parcel, publishing, readme, verify
from actstore.maintain.publishing import publish
from actstore.maintain.pulling import pull
from buckets import Fault
from hubs import ID, TOKEN, pointed

URL = f"hf://datasets/{ID}"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the Hub's library, to itself
BESIDE = {".gitattributes", "README.md", "commits.checkpoint", "tables.tar"}


@pytest.fixture
def served(tmp_path, monkeypatch):
    with pointed(monkeypatch, tmp_path / "cache") as found:
        yield found


@pytest.fixture
def made(tmp_path):
    return making.store(tmp_path / "s", 2).path


def now(served):
    return served.files(served.refs["main"])


def test_a_store_arrives_in_two_commits(made, served, tmp_path):
    """Files, which no reader sees yet, then all that makes them a store."""
    actstore.open(made).save_result("count", pl.DataFrame({"n": [1]}), {})
    assert publish(made, URL).commits == 2
    files, last = served.commits
    assert {name.partition("/")[0] for name in files} == {
        ".gitattributes",
        "parts",
        "plan.parquet",
        "vocab.parquet",
        "results",
    }
    records = {f"commits/b{batch:08d}.json" for batch in (0, 1)}
    assert last.keys() == {*records, "actstore.json", "README.md", "commits.checkpoint", "tables.tar"}
    assert {name: one for name, one in now(served).items() if name not in BESIDE} == making.contents(made)
    assert b"\nparts/**/c/** filter=lfs" in now(served)[".gitattributes"]
    assert actstore.open(URL).state == actstore.open(made).state
    assert verify.run(verify.steps(pull(URL, tmp_path / "copy").path)) == []
    assert making.contents(tmp_path / "copy") == making.contents(made)


def test_nothing_new_is_no_commit(made, served):
    publish(made, URL)
    again = publish(made, URL)
    assert (again.files, again.commits, len(served.commits)) == (0, 0, 2)


def test_what_is_new_of_a_store_that_grew_is_sent(tmp_path, served):
    """At the commit between, readers have what was there; after the last all of it."""
    made = making.create(tmp_path / "s", 2)
    made.write(0, **making.content(0))
    publish(made.path, URL, about="of one batch")
    commit = made.write(1, **making.content(1))
    served.faults.append(Fault(500, key="validate-yaml"))  # of the card: before the last commit
    with pytest.raises(ActstoreError, match=f"{URL}: .*push again, which goes on where it was"):
        publish(made.path, URL, about="of two")
    assert actstore.open(URL).sql("from rows").height == 9
    sent = publish(made.path, URL, about="of two")
    assert (sent.files, sent.commits) == (0, 1)  # its files had come
    assert served.commits[2].keys() == {f"parts/{commit.part}/{name}" for name in commit.files}
    assert served.commits[3].keys() == {"commits/b00000001.json", "commits.checkpoint", "tables.tar", "README.md"}
    assert actstore.open(URL).sql("from rows").height == 18


def test_a_push_that_is_interrupted_goes_on(made, served, monkeypatch):
    """Few files a commit, refused at each request that writes, in turn: nobody sees a store until the last."""
    monkeypatch.setattr(publishing, "AT_ONCE", 5)
    publish(made, URL)
    whole = now(served)
    writes = [one for one in served.took() if one in ("repos/create", "preupload", "commit", "validate-yaml", "info")]
    assert writes.count("commit") == 5
    for number, what in enumerate(writes):
        served.refs.clear()
        served.cdn.objects.clear()
        earlier = writes[:number].count(what)
        served.faults += [Fault("passes", key=what, times=earlier), Fault(403, key=what)]
        with pytest.raises(ActstoreError, match=f"{URL}: .*token that may write"):
            publish(made, URL)
        served.faults.clear()
        with pytest.raises(NotAStoreError):
            actstore.open(URL)
        publish(made, URL)
        assert now(served) == whole


def test_a_commit_whose_answer_is_lost_is_not_sent_twice(made, served):
    served.faults.append(Fault("lost", key="commit"))
    with pytest.raises(ActstoreError, match=f"{URL}: .*push again"):
        publish(made, URL)
    assert publish(made, URL).files == 0
    assert len(served.commits) == 2
    assert actstore.open(URL).state == actstore.open(made).state


def test_who_committed_meanwhile_is_not_overwritten(made, served, monkeypatch):
    send = publishing._send

    def meanwhile(*arguments):
        served.put({**now(served), "notes.txt": b"of somebody"})
        send(*arguments)

    monkeypatch.setattr(publishing, "_send", meanwhile)
    with pytest.raises(ActstoreError, match="somebody committed there meanwhile; push again"):
        publish(made, URL)


def test_another_store_is_left_alone(made, served, tmp_path):
    publish(made, URL)
    before = now(served)
    other = making.create(tmp_path / "other", run={"model": "other"})
    with pytest.raises(ActstoreError, match=f"{URL} is another store than .*other; push to another place"):
        publish(other.path, URL)
    served.put({"plan.parquet": b"of somebody's data"})
    with pytest.raises(ActstoreError, match="plan.parquet: exists already, with other bytes; choose another place"):
        publish(made, URL)
    theirs = before["commits/b00000001.json"].replace(b"written", b"WRITTEN")
    served.put({**before, "commits/b00000001.json": theirs})
    with pytest.raises(ActstoreError, match="b00000001.json: exists already, with other bytes; another writer"):
        publish(made, URL)
    assert now(served)["commits/b00000001.json"] == theirs


def test_branches_folders_and_commits(made, served):
    publish(made, URL)
    first = served.refs["main"]
    with pytest.raises(ActstoreError, match="a commit stays what it is; push to a branch"):
        publish(made, f"{URL}@{first}")
    with pytest.raises(NotAStoreError, match="there is no such revision"):
        publish(made, f"{URL}@draft")
    served.refs["draft"] = first
    sent = publish(made, f"{URL}@draft/runs/one")
    assert (sent.commits, sent.kept_card, served.refs["main"]) == (2, False, first)
    added = served.files(served.refs["draft"]).keys() - served.files(first).keys()
    assert all(name.startswith("runs/one/") for name in added)
    assert "runs/one/README.md" not in added
    assert actstore.open(f"{URL}@draft/runs/one").state == actstore.open(made).state


def test_what_a_compaction_replaced_goes(made, served):
    """So that the viewer shows each row once; who has the older commit open keeps it."""
    publish(made, URL)
    old = actstore.open(URL)
    ids = old.sql("from rows where role = 'eoi'")
    list(compaction.compact(made))
    publish(made, URL)
    assert len({name.split("/")[1] for name in now(served) if name.startswith("parts/")}) == 1
    assert actstore.open(URL).state == actstore.open(made).state
    assert (old.residual(ids, 1) == actstore.open(made).residual(ids, 1)).all()


def test_a_part_that_is_committed_while_it_is_sent_waits(tmp_path, served, monkeypatch):
    """Its record must not come without its files."""
    made = making.create(tmp_path / "s", 2)
    made.write(0, **making.content(0))
    names = parcel.commits.names

    def slow(path):
        found = names(path)
        if len(found) == 1:
            made.write(1, **making.content(1))
        return found

    monkeypatch.setattr(parcel.commits, "names", slow)
    publish(made.path, URL)
    assert run(["verify", URL]) == 0
    assert actstore.open(URL).sql("from rows").height == 18


def test_what_is_damaged_here_is_not_sent(made, served):
    shard = next(made.rglob("residual/eoi/c/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptError, match="residual/eoi/c/0/0/0: its bytes differ"):
        publish(made, URL)
    assert served.commits == []


def test_the_token_stays_where_it_belongs(made, served, tmp_path, monkeypatch, capfd):
    """Of the Hub alone: not of the servers that hold its files, of no message and of no file."""
    assert run(["push", str(made), URL, "--private"]) == 0
    assert served.private
    assert served.tokens == {f"Bearer {TOKEN}"}
    assert any("PUT" in request for request in served.cdn.requests)
    assert not any(TOKEN in said or "uthorization" in said for said in served.cdn.said)
    assert not any(
        TOKEN.encode() in content for content in [*now(served).values(), *making.contents(tmp_path).values()]
    )
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    served.private = False
    with pytest.raises(ActstoreError, match=f"{URL}: not allowed, or it is gone; log in .*a token that may write"):
        publish(made, URL, card=True, license_name="mit")
    said = "".join(capfd.readouterr())
    assert TOKEN not in said
    assert "SiGnAtUrE" not in said


def test_a_public_data_set_is_not_taken_for_a_private_one(made, served):
    publish(made, URL)
    with pytest.raises(ActstoreError, match="is there already, and everybody can read it"):
        publish(made, URL, private=True)


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [
        ("MOST_FILES", 20, r"files, and the Hub takes 20 of a data set; run actstore compact .* and push again"),
        ("MOST_ENTRIES", 4, r"entries, and the Hub takes 4 of a folder"),
        ("MOST_BYTES", 4000, r"GB, and the Hub takes files of 0"),
    ],
)
def test_limits_of_the_hub_are_said_before_anything_is_sent(made, served, monkeypatch, limit, most, said):
    monkeypatch.setattr(publishing, limit, most)
    with pytest.raises(ActstoreError, match=said):
        publish(made, URL)
    assert served.refs == {}


def test_compact_makes_room(tmp_path, served, monkeypatch):
    made = making.store(tmp_path / "s", 12).path
    monkeypatch.setattr(publishing, "MOST_FILES", 60)
    with pytest.raises(ActstoreError, match="actstore compact"):
        publish(made, URL)
    list(compaction.compact(made))
    publish(made, URL)
    assert actstore.open(URL).state == actstore.open(made).state


def test_more_records_than_a_folder_takes_are_not_sent_to_compact(tmp_path, served, monkeypatch):
    made = making.store(tmp_path / "s", 12).path
    monkeypatch.setattr(publishing, "MOST_ENTRIES", 11)
    for _ in range(2):
        with pytest.raises(ActstoreError, match=r"/commits: 1\d entries.*; push to object storage \(compact keeps"):
            publish(made, URL)
        list(compaction.compact(made))


def test_the_viewer_finds_the_tables(made, served, tmp_path):
    """As the library reads them that the viewer is made with, by the head of the card."""
    publish(made, URL)
    for name, content in now(served).items():
        place = tmp_path / "hub" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    opened = actstore.open(made)
    assert datasets.get_dataset_default_config_name(str(tmp_path / "hub")) == "samples"
    for view in ("samples", "rows", "plan", "vocab"):
        table = datasets.load_dataset(str(tmp_path / "hub"), view, split="train", cache_dir=str(tmp_path / "kept"))
        assert len(table) == opened.sql(f"select count(*) as n from {view}").item()
    names = datasets.load_dataset(str(tmp_path / "hub"), "samples", split="train", cache_dir=str(tmp_path / "kept"))
    assert sorted(names["sample_id"]) == opened.sql("select sample_id from samples order by all")["sample_id"].to_list()


def test_code_of_the_card_runs(made, served):
    publish(made, URL, about="about it\n", license_name="cc-by-4.0")
    card = now(served)["README.md"].decode()
    assert card.startswith("---\nlicense: cc-by-4.0\npretty_name: ")
    assert "\n    about it\n" in card
    names = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert names["samples"].height == 8
    assert names["x"].shape == (6, making.D_MODEL)


def test_a_card_of_somebody_stays_unless_said(made, served, capfd):
    served.put({"README.md": b"---\nlicense: mit\n---\n# Mine\n"})
    assert run(["push", str(made), URL]) == 0
    assert "its README.md is somebody's own, and stays; --card puts" in capfd.readouterr().err
    assert now(served)["README.md"] == b"---\nlicense: mit\n---\n# Mine\n"
    assert run(["push", str(made), URL, "--card"]) == 0
    ours = now(served)["README.md"].decode()
    assert readme.is_ours(ours)
    assert readme.license_of(ours) == "mit"
    changed = ours.replace("## License", "## Licence, and a word of mine")
    served.put({**now(served), "README.md": changed.encode()})
    assert publish(made, URL, license_name="cc-by-4.0").kept_card
    assert now(served)["README.md"].decode() == changed


def test_our_card_follows_the_store(tmp_path, served):
    made = making.create(tmp_path / "s", 2)
    made.write(0, **making.content(0))
    assert run(["push", str(made.path), URL, "--license", "cc-by-4.0"]) == 0
    assert "3 ok, 1 failed, 4 not done" in now(served)["README.md"].decode()
    made.write(1, **making.content(1))
    assert run(["push", str(made.path), URL]) == 0
    card = now(served)["README.md"].decode()
    assert "6 ok, 2 failed, 0 not done" in card
    assert str(tmp_path) not in card
    assert card.startswith("---\nlicense: cc-by-4.0\n")


def test_results_stay_where_that_is_said(made, served, capfd):
    actstore.open(made).save_result("count", pl.DataFrame({"n": [1]}), {})
    assert run(["push", str(made), URL, "--no-results"]) == 0
    assert "saved results stay here" in capfd.readouterr().err
    assert actstore.open(URL).results() == []
    assert run(["push", str(made), URL]) == 0
    assert [one.measure for one in actstore.open(URL).results()] == ["count"]


def test_options_of_the_hub_are_refused_elsewhere(made, capfd):
    assert run(["push", str(made), "s3://b/s", "--private"]) == 2
    assert "are of the Hub" in capfd.readouterr().err
    assert run(["push", str(made), URL, "--license", "all mine"]) == 1
    assert "license 'all mine': the Hub has names such as mit" in capfd.readouterr().err


def test_without_a_network_it_is_one_line(made, served, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ActstoreError, match=f"{URL}: .*refused"):
        publish(made, URL)
