"""Stores at URLs: what is read of them, in how many requests, and what goes wrong."""

import multiprocessing
import pickle
import re
import subprocess
import sys
from io import BytesIO
from tarfile import TarFile, TarInfo

import numpy as np
import polars as pl
import pytest

import actstore
import leading
import making
from actstore.commands import info
from actstore.commands.main import run
from actstore.errors import ActstoreError, ActstoreWarning, CorruptError, NotAStoreError
from actstore.maintain.pushing import push
from actstore.read import mirror
from actstore.read.far import Far
from actstore.storage import objects
from buckets import Fault, Front, bucket
from leading import URL

PARTS = 3


def everything(store):
    """All that a reader can ask for, as plain values."""
    rows = store.sql("from rows order by row_id")
    kinds = {layer: store.residual(rows, layer).tolist() for layer in store.layers}
    attention = store.attention("eoi", 1)
    tables = [store.sql(f"from {name} order by all").rows() for name in ("rows", "samples", "plan", "vocab")]
    tables += [one.table().rows() for one in store.results()]
    return kinds, np.nan_to_num(attention.values).tolist(), tables, store.state


@pytest.fixture(scope="module")
def truth(made):
    return everything(made)


def test_a_url_holds_what_the_folder_holds(made, served, truth):
    assert everything(actstore.open(URL)) == truth
    web = actstore.open(f"{served.url}/b/runs/s/")
    assert everything(web) == truth
    assert (str(web), web.place) == (f"{served.url}/b/runs/s",) * 2
    assert repr(actstore.open(URL)) == f"<Store {URL}: 3 of 3 batches, layers 0..2>"


@pytest.mark.parametrize("parts", [1, 8])
def test_requests_do_not_grow_with_the_parts(tmp_path, monkeypatch, parts):
    """Opening 3, info and SQL 2, then none; a role at a layer 2 a part, at another layer 1; opened again 2."""
    folder = making.store(tmp_path / "s", parts).path
    with bucket() as served:
        leading.point(monkeypatch, served, tmp_path / "cache")
        push(folder, URL)
        served.took()
        store = actstore.open(URL)
        opening = served.took()
        assert opening[:2] == [("GET", "runs/s/actstore.json"), ("LIST", "runs/s/commits/")]
        assert opening[2:] == [("GET", "runs/s/commits.checkpoint" if parts > 2 else "runs/s/commits/b00000000.json")]
        info.summary(store)
        rows = store.sql("from rows where role = 'eoi'")
        assert served.took() == [("LIST", "runs/s/results/"), ("GET", "runs/s/tables.tar")]
        store.sql("select count(*) from samples"), store.plan, store.vocabulary, store.results()
        assert served.took() == []
        store.residual(rows, 0)
        assert len(served.took()) == 2 * parts
        store.residual(rows, 1)
        assert len(served.took()) == parts
        again = actstore.open(URL)
        assert len(served.took()) == 2
        again.sql("from rows")
        assert served.took() == [("LIST", "runs/s/results/")]


def test_a_shard_is_fetched_whole_when_many_of_its_layers_are_wanted(made, served, monkeypatch):
    monkeypatch.setattr(mirror, "LAYERS_BY_RANGES", 1)
    store = actstore.open(URL)
    rows = store.sql("from rows where role = 'image'")
    store.residual(rows, 0)
    served.took()
    np.testing.assert_array_equal(store.residual(rows, layers=[1, 2, 0]), made.residual(rows, layers=[1, 2, 0]))
    taken = served.took()
    assert len(taken) == PARTS
    assert all(re.fullmatch(r"runs/s/parts/[^/]+/residual/image/c/0/0/0", key) for _, key in taken)


def test_a_small_shard_is_fetched_whole(served, monkeypatch):
    monkeypatch.setattr(mirror, "SMALL", 2**20)
    store = actstore.open(URL)
    rows = store.sql("from rows where role = 'image'")
    served.took()
    store.residual(rows, 0), store.residual(rows, 1)
    assert len(served.took()) == PARTS


def test_what_a_folder_was_copied_with_is_enough(made, tmp_path, monkeypatch, truth):
    """Without checkpoint and tables.tar it takes more requests."""
    with bucket() as served:
        leading.point(monkeypatch, served, tmp_path / "cache")
        leading.fill(served, made.path)
        assert everything(actstore.open(URL)) == truth
        with pytest.raises(NotAStoreError, match="no commits.checkpoint, which does; actstore push"):
            actstore.open(f"{served.url}/b/runs/s")


def test_lists_come_in_pages(served, truth):
    served.page = 2
    assert everything(actstore.open(URL)) == truth
    assert ("LIST", "runs/s/commits/") in served.requests
    assert len([one for one in served.requests if one == ("LIST", "runs/s/commits/")]) == 2


def test_a_server_that_sends_no_ranges(served, truth):
    served.ranges = False
    assert everything(actstore.open(f"{served.url}/b/runs/s")) == truth
    keys = [key for _, key in served.took() if "/residual/" in key]
    assert len(keys) == 2 * len(set(keys))  # once for a range, then whole


def flipped(content):
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


DAMAGE = {"flipped": flipped, "cut": lambda content: content[: len(content) // 2], "missing": None}
DERIVED = ("runs/s/commits.checkpoint", "runs/s/tables.tar")


@pytest.mark.parametrize("kind", DAMAGE)
def test_no_damaged_object_passes_for_what_was_committed(served, tmp_path, truth, kind):
    """Each object of a part and of the store in turn: the truth comes out, or an error that names it."""
    damaged = DAMAGE[kind]
    derived = {key: served.objects.pop(key) for key in DERIVED}  # what is damaged would be taken from them
    keys = [key for key in served.objects if "b00000001" not in key and "b00000002" not in key]
    for key in keys:
        leading.forget(tmp_path / "cache")
        good = served.objects.pop(key)
        if damaged:
            served.objects[key] = damaged(good)
        if key.endswith("zarr.json"):
            assert everything(actstore.open(URL)) == truth
        elif "/results/" in key and damaged:
            with pytest.warns(ActstoreWarning, match=key.replace("runs/s", URL)):
                actstore.open(URL).results()
        elif "/results/" in key:
            assert actstore.open(URL).results() == []  # it was removed
        elif "/commits/" in key and not damaged:
            assert len(actstore.open(URL).parts) == PARTS - 1  # it was not committed
        else:
            with pytest.raises(ActstoreError, match=f"{key.replace('runs/s', URL)}|is not a store"):
                everything(actstore.open(URL))
        served.objects[key] = good
    assert everything(actstore.open(URL)) == truth
    for key, good in derived.items():
        leading.forget(tmp_path / "cache")
        served.objects |= derived | {key: damaged(good) if damaged else b""}
        assert everything(actstore.open(URL)) == truth


def test_a_stale_object_is_an_error(served):
    """An object of another part, whole in itself, in the place of one."""
    shards = [key for key in served.objects if key.endswith("residual/eoi/c/0/0/0")]
    served.objects[shards[0]] = served.objects[shards[1]]
    store = actstore.open(URL)
    with pytest.raises(CorruptError, match=shards[0].replace("runs/s", URL)):
        store.residual(store.sql("from rows"), 0)


@pytest.mark.parametrize("kind", [503, "cut", "flip"])
@pytest.mark.parametrize("key", ["actstore.json", "checkpoint", "tables.tar", "c/0/0/0"])
def test_what_goes_wrong_once_is_asked_for_again(served, monkeypatch, truth, kind, key):
    if key == "c/0/0/0":
        monkeypatch.setattr(mirror, "SMALL", 2**20)  # a range that is garbled is an error: TCP and TLS look at it, too
    served.faults.append(Fault(kind, "GET", key))
    assert everything(actstore.open(URL)) == truth
    assert served.faults[0].times == 0


def test_a_server_that_refuses(served):
    served.faults.append(Fault(403, "GET", "plan.parquet"))
    served.objects.pop("runs/s/tables.tar")
    store = actstore.open(URL)
    with pytest.raises(ActstoreError, match=f"{URL}/plan.parquet: not allowed; look at the credentials") as told:
        assert store.plan is None
    assert leading.SECRET not in str(told.value)


@pytest.mark.parametrize("status", [400, 403])
def test_what_a_refusal_repeats_of_credentials_is_not_said(served, monkeypatch, status):
    """S3 answers an expired session token with the token; the endpoint may have a password."""
    told = "<Code>ExpiredToken</Code><Message>It has expired.</Message>"
    body = f"<?xml version='1.0'?><Error>{told}<Token-0>{leading.SECRET}</Token-0></Error>".encode()
    monkeypatch.setattr(Front, "_refuse", lambda self, _: self._answer(status, body))
    monkeypatch.setenv("AWS_ENDPOINT_URL", served.url.replace("//", f"//me:{leading.SECRET}@"))
    served.faults.append(Fault(status, times=9))
    why = "ExpiredToken: It has expired.; look at" if status == 400 else "not allowed; look at"
    with pytest.raises(ActstoreError, match=why) as said:
        actstore.open(URL)
    assert leading.SECRET not in str(said.value)


def test_places_without_a_store(served):
    with pytest.raises(NotAStoreError, match="s3://b/else is not a store: it has no actstore.json"):
        actstore.open("s3://b/else")
    with pytest.raises(NotAStoreError, match="s3://none/s: there is no such bucket"):
        actstore.open("s3://none/s")


def test_a_server_that_is_not_there(monkeypatch, tmp_path):
    with bucket() as gone:
        leading.point(monkeypatch, gone, tmp_path)
    with pytest.raises(ActstoreError, match=r"actstore.json: .*nothing is known of what is there"):
        actstore.open(URL)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@b/s", "s3://b: a URL of a store has no user, password"),
        ("https://host/s?X-Amz-Signature=secret", "https://host: a URL of a store has no user, password"),
        ("ftp://host/s", "ftp://: not a place of stores"),
        ("s3:///s", "names no bucket"),
        ("az://b/s", "Account"),
    ],
)
def test_urls_that_name_no_store(url, said):
    with pytest.raises(ActstoreError, match=said) as told:
        actstore.open(url)
    assert "secret" not in str(told.value)


def test_the_extra_is_named():
    program = f"import sys; sys.modules['obstore'] = None; import actstore; actstore.open({URL!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"{URL}: a store at a URL needs obstore; install it with: pip install" in done.stderr


def test_a_cache_that_was_damaged_or_removed_is_filled_again(served, tmp_path, monkeypatch, truth):
    everything(actstore.open(URL))
    for kind in ("actstore.json", "b00000001.json", "rows.parquet", "count-*.parquet"):
        file = next((tmp_path / "cache").rglob(kind))
        good = file.read_bytes()
        file.write_bytes(flipped(good))
        assert everything(actstore.open(URL)) == truth
        file.unlink()
        assert everything(actstore.open(URL)) == truth


def test_a_cache_that_cannot_be_written_is_said(served, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ActstoreError, match="cannot be kept there .*set XDG_CACHE_HOME to another folder"):
        actstore.open(URL)


def test_names_of_others_lead_nowhere(served, tmp_path, truth):
    """A list and an archive may name anything."""
    packed = BytesIO()
    with TarFile(fileobj=packed, mode="w") as bundle:
        for name in ("../../../evil", "/evil", "results/../../evil", "commits/b00000009.json"):
            member = TarInfo(name)
            member.size = 4
            bundle.addfile(member, BytesIO(b"evil"))
    served.objects["runs/s/tables.tar"] = packed.getvalue()
    for name in ("commits/evil.json", "results/evil/evil.parquet", "results/evil.parquet"):
        served.objects[f"runs/s/{name}"] = b"evil"
    assert everything(actstore.open(URL)) == truth
    web = actstore.open(f"{served.url}/b/runs/s")
    assert everything_but_results(web) == everything_but_results(actstore.open(URL))
    assert [file for file in making.files(tmp_path) if file.read_bytes() == b"evil"] == []


def test_a_new_store_at_an_old_place(served, tmp_path):
    actstore.open(URL).sql("from rows")
    other = making.create(tmp_path / "other", 2, run={"model": "other"})
    other.write(0, **making.content(0))
    served.objects.clear()
    push(tmp_path / "other", URL)
    store = actstore.open(URL)
    assert store.run["model"] == "other"
    assert everything_but_results(store) == everything_but_results(actstore.open(tmp_path / "other"))


def everything_but_results(store):
    rows = store.sql("from rows order by row_id")
    return rows.rows(), store.residual(rows, 2).tolist(), store.state, store.remaining


def test_a_store_that_grows_and_is_compacted(tmp_path, monkeypatch):
    """What is open stays as it was; opened again, it has what came."""
    made = making.create(tmp_path / "s", 3)
    made.write(0, **making.content(0))
    with bucket() as served:
        leading.point(monkeypatch, served, tmp_path / "cache")
        push(made.path, URL)
        early = actstore.open(URL)
        for batch in (1, 2):
            made.write(batch, **making.content(batch))
        push(made.path, URL)
        assert early.sql("from rows").height == 9
        whole = actstore.open(made.path)
        assert everything_but_results(actstore.open(URL)) == everything_but_results(whole)
        making.compact(whole, 0, ["b00000000.json", "b00000001.json"])
        push(made.path, URL)
        compacted = actstore.open(URL)
        assert len(compacted.parts) == 2
        assert everything_but_results(compacted) == everything_but_results(actstore.open(made.path))
        web = actstore.open(f"{served.url}/b/runs/s")
        assert everything_but_results(web) == everything_but_results(compacted)


def test_results_are_not_written_to_a_url(served, tmp_path):
    store = actstore.open(URL)
    before = dict(served.objects)
    saved = store.save_result("count", pl.DataFrame({"n": [3]}), {"k": 2})
    assert tmp_path / "cache" in saved.path.parents
    assert store.saved_result("count", {"k": 2}).table().item() == 3
    assert {one.parameters["k"] for one in actstore.open(URL).results()} == {1, 2}
    assert store.write_index().is_relative_to(tmp_path / "cache")
    assert served.objects == before


def test_a_store_goes_to_another_process(served, truth):
    store = pickle.loads(pickle.dumps(actstore.open(URL)))
    assert everything(store) == truth


def _in_fork(rows, told):
    try:
        actstore.open(URL).residual(rows, 0)
    except RuntimeError as error:
        told.put(str(error))


def test_a_fork_is_told(served):
    """The threads of obstore are not in it, and would be waited for."""
    actstore.open(URL)
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    child = context.Process(target=_in_fork, args=([0], told))
    child.start()
    assert "forked from one that had read URLs; start it by spawn" in told.get(timeout=30)
    child.join()


class Held:
    """A storage of one object."""

    def __init__(self, content):
        self.content, self.asked = content, []

    def stretches(self, _name, stretches):
        self.asked += stretches
        return [self.content[start:end] for start, end in stretches]


@pytest.mark.parametrize("window", [1, 300, 10_000])
def test_stretches_are_read_together(monkeypatch, window):
    monkeypatch.setattr("actstore.read.far.WINDOW", window)
    monkeypatch.setattr("actstore.read.far.LONGEST", 500)
    monkeypatch.setattr("actstore.read.far.APART", 10)
    generator = np.random.default_rng(0)
    held = Held(generator.bytes(5_000))
    starts = np.cumsum(generator.integers(0, 120, 60)).tolist()
    wanted = [(start, start + int(size)) for start, size in zip(starts, generator.integers(5, 100, 60), strict=True)]
    read = Far(held, "shard", 5_000, {})
    read.expect(wanted)
    for start, end in wanted:
        assert read.read(start, end - 4 - start) == held.content[start : end - 4]
        assert read.read(end - 4, 4) == held.content[end - 4 : end]
    assert all(end - start <= 500 for start, end in held.asked)
    assert len(held.asked) < len(wanted) or window == 1


def test_too_large_an_object_is_not_read(served, monkeypatch):
    served.objects["runs/s/actstore.json"] = b" " * 1000
    monkeypatch.setattr(mirror, "RECORD_BYTES", 500)
    with pytest.raises(CorruptError, match="actstore.json: 1000 bytes, where at most 500 belong"):
        actstore.open(URL)


def test_obstores_own_storages(made, monkeypatch, tmp_path, truth):
    """In memory and in a folder, as of S3."""
    obstore = pytest.importorskip("obstore")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, kept in enumerate(
        (obstore.store.MemoryStore(), obstore.store.LocalStore(tmp_path / "kept", mkdir=True))
    ):
        monkeypatch.setattr(objects, "opened", lambda url, kept=kept: objects.Objects(url, kept))
        push(made.path, f"s3://b/{number}")
        assert everything(actstore.open(f"s3://b/{number}")) == truth
        with pytest.raises(objects.PresentError):
            objects.opened("s3://b/s").create("plan.parquet", b"other")


def test_a_record_that_is_damaged_there_is_found_by_who_has_it(served, capfd):
    """A reader with a copy of it goes on; verify says it, and so does who comes new."""
    actstore.open(URL)
    key = next(key for key in served.objects if key.startswith("runs/s/commits/"))
    content = served.objects[key]
    served.objects[key] = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    assert run(["verify", URL]) == 1
    assert f"{URL}/{key.removeprefix('runs/s/')}: its bytes differ" in "".join(capfd.readouterr())


def test_commands_that_change_a_store_take_no_url(capfd):
    for words in (
        ["compact", URL],
        ["repair", URL],
        ["thumbnails", URL],
        ["results", URL, "--remove", "x"],
    ):
        assert run(words) == 1
        assert f"{URL}: this is done in a folder" in capfd.readouterr().err or words[0] == "results"
