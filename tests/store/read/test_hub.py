"""Stores on the Hub: one commit as long as a store is open, requests counted, and a token for nobody else."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import constants

import actstore
import making
from actstore.commands.main import run
from actstore.errors import ActstoreError, CorruptError, NotAStoreError
from actstore.maintain.pulling import pull
from buckets import Fault
from hubs import ID, TOKEN, pointed

URL = f"hf://datasets/{ID}"


@pytest.fixture
def served(tmp_path, monkeypatch):
    with pointed(monkeypatch, tmp_path / "cache") as found:
        yield found


@pytest.fixture
def made(tmp_path):
    return making.store(tmp_path / "s", 2)


def test_a_data_set_is_read_as_the_folder(served, made):
    sha = served.push(made.path)
    store = actstore.open(URL)
    assert str(store) == f"{URL}@{sha}"
    assert store.state == made.state
    rows = made.sql("from rows order by row_id")
    assert store.sql("from rows order by row_id").equals(rows)
    for role in ("eoi", "image"):
        ids = rows.filter(role=role)
        for layer in making.LAYERS:
            assert np.array_equal(store.residual(ids, layer), made.residual(ids, layer))


def test_requests_are_few(served, made):
    served.push(made.path)
    store = actstore.open(URL)
    assert sorted(served.took()) == ["api", *["resolve"] * 3, "tree"]  # header, two records
    ids = store.sql("from rows where role = 'eoi'")
    assert served.took() == ["tree", *["resolve"] * 7]  # no results, no tables.tar, the tables
    store.residual(ids, 0)
    assert served.took() == ["resolve"] * 4  # of each part an index and a layer
    store.residual(ids, 1)
    assert served.took() == ["resolve"] * 2  # the whole shard
    store.residual(ids, 2)
    assert served.took() == []
    actstore.open(URL).sql("from rows")
    assert sorted(served.took()) == ["api", "resolve", "tree", "tree"]


def test_no_token_and_no_signature_goes_further(served, made, tmp_path, capfd):
    served.private = True
    served.push(made.path)
    assert run(["verify", URL]) == 0
    pull(URL, tmp_path / "copy")
    assert served.tokens == {f"Bearer {TOKEN}"}
    assert served.cdn.said
    assert not any(TOKEN in said or "uthorization" in said for said in served.cdn.said)
    kept = [file for folder in ("cache", "copy") for file in (tmp_path / folder).rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in file.read_bytes() for file in kept)
    served.cdn.faults.append(Fault(403))
    with pytest.raises(ActstoreError, match="not allowed; log in") as refused:
        actstore.open(URL)
    said = str(refused.value) + "".join(capfd.readouterr())
    assert TOKEN not in said
    assert "SiGnAtUrE" not in said


def test_a_store_stays_at_its_commit(served, tmp_path):
    """What is pushed later is another commit's; a process that is handed the store asks for no revision."""
    made = making.create(tmp_path / "s", 2)
    made.write(0, **making.content(0))
    first = served.push(made.path)
    store = actstore.open(URL)
    made.write(1, **making.content(1))
    served.push(made.path)
    served.took()
    again = pickle.loads(pickle.dumps(store))
    assert "api" not in served.took()
    assert again.sql("from rows").height == store.sql("from rows").height == 9
    assert actstore.open(f"{URL}@{first}").state == store.state
    assert actstore.open(URL).sql("from rows").height == 18
    assert actstore.open(store.place).state == store.state


def test_revisions_and_folders(served, made, tmp_path):
    served.push(made.path, "runs/one/", branch="refs/pr/1")
    assert actstore.open(f"{URL}@refs/pr/1/runs/one").state == made.state
    copy = pull(f"{URL}@refs/pr/1/runs/one", tmp_path / "copy", roles=["eoi"], layers=[1])
    assert copy.run["pulled"]["from"] == f"{URL}@refs/pr/1/runs/one"
    assert copy.commits[0].by["from"] == f"{URL}@{served.refs['refs/pr/1']}/runs/one"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"{URL}@old", f"there is no such revision of {ID}"),
        ("hf://datasets/me/other", "there is no data set me/other, or it is private: log in"),
        (f"{URL}/elsewhere", "/elsewhere is not a store: it has no actstore.json"),
        ("hf://me/acts", "of the Hub data sets are read: hf://datasets/OWNER/NAME"),
        ("hf://datasets/acts", "must be 'namespace/name'"),
        ("hf://datasets:secret@host/x", "a URL of a store has no user, password"),
    ],
)
def test_what_is_not_there_is_said(served, made, url, said):
    served.push(made.path)
    with pytest.raises(ActstoreError, match=said):
        actstore.open(url)


def test_a_data_set_that_is_not_mine_is_not_there(served, made, monkeypatch):
    served.private = True
    served.push(made.path)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(NotAStoreError, match="or it is private: log in"):
        actstore.open(URL)


def test_damage_is_an_error(served, made):
    sha = served.push(made.path)
    key = next(key for key in served.cdn.objects if key.startswith(sha) and "residual/eoi/c" in key)
    served.cdn.objects[key] = b"\0" * len(served.cdn.objects[key])
    store = actstore.open(URL)
    ids = store.sql("from rows where role = 'eoi'")
    with pytest.raises(CorruptError, match=f"{URL}@{sha}/parts/.*residual/eoi"):
        store.residual(ids, 0)


def test_a_hub_that_is_not_there_is_one_line(served, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ActstoreError, match=f"{URL}: .*refused; nothing is known of what is there"):
        actstore.open(URL)


def test_the_command_line_finds_the_hub_of_the_environment(served, made, tmp_path):
    served.push(made.path)
    command = [sys.executable, "-m", "actstore", "query", URL, "select count(*) as n from rows", "--format", "csv"]
    environment = {**os.environ, "HF_ENDPOINT": served.url, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("n\n18\n", 0), done.stderr
