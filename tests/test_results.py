import json
from datetime import UTC, datetime

import polars as pl
import pytest

import actstore
import making
from actstore import ActstoreError, CorruptError, QueryError, cli, results, verify
from actstore.errors import DamagedWarning

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
    assert found.versions["actstore"] == "0.1.0"
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
    assert cli.run(["results", str(store.path), "--format", "csv"]) == 0
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
    import pyarrow.parquet as pq

    path = store.save_result("count", TABLE, {"k": 1}).path
    found = json.loads(pq.read_schema(path).metadata[b"actstore"])
    assert sorted(found) == ["created", "measure", "parameters", "state", "versions"]
