import json
from datetime import UTC, datetime
from importlib.metadata import version

import polars as pl
import pyarrow.parquet as pq
import pytest

import actstore
import making
from actstore import ActstoreError, CorruptError, QueryError
from actstore.commands import main
from actstore.errors import DamagedWarning
from actstore.format import results
from actstore.maintain import verify
from actstore.storage import local

TABLE = pl.DataFrame({"layer": [0, 1], "overlap": [0.25, 0.5]})


@pytest.fixture
def store(tmp_path):
    return making.store(tmp_path / "s", 1)


def test_a_result_is_found_again_by_its_call(store):
    saved = store.save_result("label_overlap", TABLE, {"k": 10, "roles": ["eoi"]})
    found = actstore.open(store.path).saved_result("label_overlap", {"roles": ["eoi"], "k": 10})
    assert found == saved
    assert found.table().equals(TABLE)
    assert (found.measure, found.parameters, found.state) == ("label_overlap", {"k": 10, "roles": ["eoi"]}, store.state)
    assert found.versions["actstore"] == version("actstore")
    assert datetime.now(UTC).isoformat()[:10] in found.created
    assert store.saved_result("label_overlap", {"k": 11, "roles": ["eoi"]}) is None
    assert store.saved_result("label", {}) is None


def test_results_are_views(store):
    result = store.save_result("label_overlap", TABLE, {"k": 10})
    store = actstore.open(store.path)
    assert store.sql(f"select overlap from {result.name} order by layer")["overlap"].to_list() == [0.25, 0.5]
    assert store.sql("select name, measure, parameters, current from results").rows() == [
        (result.name, "label_overlap", '{"k": 10}', True)
    ]


def test_a_result_of_other_contents_is_not_current(tmp_path):
    store = making.create(tmp_path / "s")
    store.save_result("count", TABLE, {})
    store.write(0, **making.content(0))
    store = actstore.open(store.path)
    assert store.sql("select current from results").rows() == [(False,)]
    assert store.saved_result("count", {}) is None


def test_saving_again_replaces(store):
    store.save_result("count", TABLE, {})
    newer = store.save_result("count", TABLE * 2, {})
    assert store.results() == [newer]
    assert [path.name for path in (store.path / "results").iterdir()] == [newer.path.name]
    assert newer.table().equals(TABLE * 2)


def test_of_two_results_of_one_call_the_newest_counts(store):
    """As after two programs saved at once."""
    older = store.save_result("count", TABLE, {})
    content = older.path.read_bytes()
    newer = store.save_result("count", TABLE * 2, {})
    older.path.write_bytes(content)
    assert store.results() == [newer]
    assert store.saved_result("count", {}) == newer


@pytest.mark.parametrize("measure", ["", "Overlap", "label-overlap", "../x", "a/b"])
def test_a_measure_has_a_plain_name(store, measure):
    with pytest.raises(ActstoreError, match="use lower-case letters, digits and underscores"):
        store.save_result(measure, TABLE, {})


def test_every_changed_byte_of_a_result_is_noticed(store):
    path = store.save_result("count", TABLE, {}).path
    content = path.read_bytes()
    for where in range(0, len(content), 7):
        path.write_bytes(content[:where] + bytes([content[where] ^ 4]) + content[where + 1 :])
        with pytest.raises(CorruptError, match="its bytes differ from what was saved"):
            results.load(path)


def test_a_damaged_result_is_left_out_and_said(store, capsys):
    kept = store.save_result("other", TABLE, {})
    path = store.save_result("count", TABLE, {}).path
    content = path.read_bytes()
    for damaged in (b"", content[:-9], content[:300] + bytes([content[300] ^ 1]) + content[301:]):
        path.write_bytes(damaged)
        opened = actstore.open(store.path)
        with pytest.warns(DamagedWarning, match=rf"left out: .*{path.name}: its bytes differ from what was saved"):
            assert opened.results() == [kept]
        with pytest.warns(DamagedWarning):
            assert opened.sql("select name from results")["name"].to_list() == [kept.name]
        with pytest.raises(QueryError, match="no view 'count_"):
            opened.sql(f"from {path.stem[:14].replace('-', '_')}")
        assert verify.run(verify.steps(store.path))[0].file == f"results/{path.name}"
    assert main.run(["results", str(store.path), "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in out.splitlines()] == ["name", kept.name]
    assert err == f"actstore: left out: {path}: its bytes differ from what was saved (crc32c); remove it\n"
    again = store.save_result("count", TABLE, {})
    assert store.results() == [again, kept]
    assert verify.run(verify.steps(store.path)) == []


def test_a_stranger_among_the_results(store):
    path = store.path / "results" / "count-00000000-527d5351.parquet"
    path.write_bytes(b"abcd")
    with pytest.warns(DamagedWarning, match=r"count-00000000-527d5351\.parquet: "):
        assert store.results() == []
    path.rename(path.with_name("mine.parquet"))
    assert store.results() == []


def test_provenance_is_readable_without_actstore(store):
    path = store.save_result("count", TABLE, {"k": 1}).path
    found = json.loads(pq.read_schema(path).metadata[b"actstore"])
    assert sorted(found) == ["commits", "created", "measure", "parameters", "state", "versions"]


def test_where_a_result_comes_from_is_in_sql_after_the_store_has_grown(tmp_path, capsys):
    store = making.create(tmp_path / "s", 4)
    for number in range(3):
        store.write(number, **making.content(number))
    store = actstore.open(store.path)
    store.save_result("count", TABLE, {"k": 1, "sql": "from rows where role = 'eoi'"})
    store.write(3, **making.content(3))
    (row,) = actstore.open(store.path).sql("from results").rows(named=True)
    assert (row["sql"], row["commits"], row["current"]) == (
        "from rows where role = 'eoi'",
        "b00000000..b00000002",
        False,
    )
    versions = json.loads(row["versions"])
    assert all(versions[name] == version(name) for name in ("actstore", "polars", "faiss-cpu", "scikit-learn", "scipy"))
    assert main.run(["results", str(store.path)]) == 0
    (said,) = map(json.loads, capsys.readouterr().out.splitlines())
    opened = {name: json.loads(row[name]) for name in ("parameters", "versions")}
    assert said == {name: row[name] for name in said} | opened
    assert {"sql", "commits", "versions"} < said.keys()


def saved_with(store, **provenance):
    """A result with other provenance, as another version writes it; `...` leaves a member out."""
    path = store.save_result("count", TABLE, {"k": 1}).path
    arrow = pq.read_table(path)
    members = json.loads(arrow.schema.metadata[b"actstore"]) | provenance
    members = {name: value for name, value in members.items() if value is not ...}
    pq.write_table(arrow.replace_schema_metadata({"actstore": json.dumps(members)}), path)
    return path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}-{local.crc32c(path)}.parquet"))


def test_a_result_of_before_commits_were_kept_is_read(store):
    saved = results.load(saved_with(store, commits=...))
    assert saved.commits is None
    assert store.saved_result("count", {"k": 1}) == saved
    assert actstore.open(store.path).sql("select sql, commits from results").rows() == [(None, None)]


def test_what_later_versions_add_to_a_result_is_passed_over(store):
    saved = results.load(saved_with(store, machine="a"))
    assert store.saved_result("count", {"k": 1}) == saved


@pytest.mark.parametrize("odd", [{"commits": 3}, {"commits": [3]}, {"parameters": [1]}])
def test_odd_provenance_is_no_result(store, odd):
    with pytest.raises(CorruptError, match="not a result of actstore"):
        results.load(saved_with(store, **odd))


@pytest.mark.parametrize("other", [{"parameters": {"k": 2}}, {"measure": "mean"}, {"state": "0123456789abcdef"}])
def test_a_result_under_the_name_of_another_call_is_left_out(store, other):
    path = saved_with(store, **other)
    with pytest.warns(DamagedWarning, match="the result of another call than its name says"):
        assert store.results() == []
    with pytest.warns(DamagedWarning):
        assert store.saved_result("count", {"k": 1}) is None
    assert [problem.file for problem in verify.run(verify.steps(store.path))] == [f"results/{path.name}"]


def test_results_renamed_onto_each_other_are_believed_by_nobody(store, capsys):
    one, two = (store.save_result("count", TABLE * k, {"k": k}).path for k in (1, 2))
    (first, crc), (second, other) = (path.stem.rsplit("-", 1) for path in (one, two))
    one.rename(one.with_name(f"{second}-{crc}.parquet"))
    two.rename(two.with_name(f"{first}-{other}.parquet"))
    with pytest.warns(DamagedWarning):
        assert actstore.open(store.path).results() == []
    assert main.run(["verify", str(store.path), "--format", "csv"]) == 1
    assert capsys.readouterr().out.count("the result of another call than its name says") == 2


def test_a_call_whose_name_is_that_of_another_is_not_answered_by_it(store, monkeypatch):
    monkeypatch.setattr(results, "_call", lambda measure, *_: f"{measure}-00000000")
    store.save_result("count", TABLE, {"k": 2})
    assert store.saved_result("count", {"k": 1}) is None


@pytest.mark.parametrize("created", ["2999-01-01T00:00:00+00:00", "2999-01-01T00:00:00", "never"])
def test_what_is_saved_is_kept_though_the_clock_was_set_back(store, created):
    saved_with(store, created=created)
    newer = store.save_result("count", TABLE * 2, {"k": 1})
    assert newer.table().equals(TABLE * 2)
    assert store.saved_result("count", {"k": 1}) == newer
    assert list((store.path / "results").iterdir()) == [newer.path]


def test_a_clock_set_back_makes_no_result_older_for_others(store):
    older = results.load(saved_with(store, created="2999-01-01T00:00:00+00:00"))
    content = older.path.read_bytes()
    newer = store.save_result("count", TABLE * 2, {"k": 1})
    older.path.write_bytes(content)  # as of a program that saves at the same time
    assert newer.created == "2999-01-01T00:00:00.000001+00:00"
    assert store.saved_result("count", {"k": 1}) == newer


def test_readers_beside_who_saves_again_find_a_whole_result(store, monkeypatch):
    """Lists, tables, SQL and verification: the file that each of them has found is gone when it reads it."""
    first = store.save_result("count", TABLE, {"k": 1})
    opened = actstore.open(store.path)
    assert opened.sql(f"from {first.name}").equals(TABLE)
    checks = [step for step in verify.steps(store.path) if step.file.startswith("results/")]
    second = store.save_result("count", TABLE, {"k": 1})
    assert not first.path.exists()
    assert first.table().equals(TABLE)
    assert opened.sql(f"from {first.name}").equals(TABLE)
    assert verify.run(checks) == []
    load, left = results.load, [second.path]

    def late(path):
        if left:
            left.clear()
            store.save_result("count", TABLE, {"k": 1})
        return load(path)

    monkeypatch.setattr(results, "load", late)
    (found,) = actstore.open(store.path).results()
    assert not second.path.exists()
    assert found.table().equals(TABLE)


def test_a_result_that_is_lost_is_still_missed(store):
    saved = store.save_result("count", TABLE, {"k": 1})
    saved.path.unlink()
    with pytest.raises(CorruptError):
        saved.table()


def test_a_result_is_removed_by_its_name_and_none_by_a_wrong_one(store, capsys):
    kept, gone = (store.save_result("label_overlap", TABLE, {"k": k}) for k in (1, 2))
    assert main.run(["results", str(store.path), "--remove", kept.name, "--remove", gone.name[:-1]]) == 1
    assert f"no result '{gone.name[:-1]}'; did you mean '{gone.name}'" in capsys.readouterr().err
    assert {one.name for one in store.results()} == {kept.name, gone.name}
    again = gone.path.with_name(f"{gone.path.stem[:-8]}00000000.parquet")
    again.write_bytes(gone.path.read_bytes())  # of the same call, damaged: it goes too
    assert main.run(["results", str(store.path), "--remove", gone.name]) == 0
    assert [one["name"] for one in map(json.loads, capsys.readouterr().out.splitlines())] == [kept.name]
    assert not gone.path.exists()
    assert not again.exists()
    assert store.results() == [kept]
