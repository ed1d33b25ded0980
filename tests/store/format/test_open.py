import shutil

import pytest

import actstore
import making
from actstore import CorruptError, FormatError, NotAStoreError
from actstore.format import records


def test_not_a_store(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "file" / "below"):
        with pytest.raises(NotAStoreError, match=r"is not a store: it has no actstore\.json"):
            actstore.open(path)
    with pytest.raises(FileNotFoundError):
        actstore.open(tmp_path)


def test_what_may_have_been_meant(tmp_path):
    """Folders as newcomers name them: a file of a store, what a demo writes, a misspelt name, an archive."""
    for name in ("fusion", "gated"):
        making.create(tmp_path / "demo" / name)
    (tmp_path / "s.zip").touch()
    for path, meant in (
        ("demo/fusion/actstore.json", f"; it lies in the store {tmp_path}/demo/fusion"),
        ("demo/fusion/parts", f"; it lies in the store {tmp_path}/demo/fusion"),
        ("demo", f"; there are stores in it: {tmp_path}/demo/fusion, {tmp_path}/demo/gated"),
        ("demo/fusoin", f"; did you mean '{tmp_path}/demo/fusion'?"),
        ("s.zip", "; a store is a folder"),
        ("nowhere/at/all", ""),
    ):
        with pytest.raises(NotAStoreError) as said:
            actstore.open(tmp_path / path)
        assert str(said.value) == f"{tmp_path}/{path} is not a store: it has no actstore.json{meant}"


def test_a_newer_store(tmp_path):
    store = making.create(tmp_path / "s")
    (store.path / "actstore.json").write_text('{"format":4,"everything":"else"}')
    with pytest.raises(FormatError, match="format 4 is newer than this reader"):
        actstore.open(store.path)


def test_a_newer_store_is_said_before_anything_else(tmp_path):
    """Whatever else it may be that this reader does not know."""
    store = making.store(tmp_path / "s")
    for name in ("parts", "plan.parquet"):
        (store.path / name).rename(store.path / f"{name}-2")
        (store.path / name).symlink_to(store.path / f"{name}-2")
    shutil.rmtree(store.path / "commits")
    (store.path / "actstore.json").write_text('{"format":4}')
    with pytest.raises(FormatError, match="format 4 is newer than this reader"):
        actstore.open(store.path)


def test_a_newer_record(tmp_path):
    store = making.store(tmp_path / "s")
    making.record(store.path, 1).write_text('{"format":2,"parts":["one","two"]}')
    with pytest.raises(FormatError, match=r"b00000001\.json: format 2 is newer than this reader"):
        actstore.open(store.path)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"capture": {}}, "missing required field `layers`"),
        ({"capture": {"layers": [], "d_model": 8, "dtype": "float32"}}, ""),
        ({"capture": {"layers": [1, 0], "d_model": 8, "dtype": "float32"}}, ""),
        ({"capture": {"layers": [0], "d_model": 8, "dtype": "object"}}, ""),
        ({"capture": {"layers": [0], "d_model": 0, "dtype": "float32"}}, ""),
        ({"capture": {"layers": [0], "d_model": 8, "dtype": []}}, r"Expected `str`.* at `\$\.capture\.dtype`"),
        ({"capture": {"layers": ["a"], "d_model": 0, "dtype": "float32"}}, r"`int`.* at `\$\.capture\.layers\[0\]`"),
        ({"capture": {"layers": [0], "d_model": 8.0, "dtype": "float32"}}, ""),
        ({"capture": {"layers": [0], "d_model": "8", "dtype": "float32"}}, r"`int`.* at `\$\.capture\.d_model`"),
        ({"files": {}}, ""),
        ({"files": {"../plan.parquet": [1, "00000000"], "vocab.parquet": [1, "00000000"]}}, ""),
        ({"run": [1]}, r"Expected `object`.* at `\$\.run`"),
        ({"created": None}, r"Expected `str`.* at `\$\.created`"),
        ({"lens": None}, r"at `\$\.lens`"),
        ({"lens": {"norm": "rmsnorm"}}, r"missing required field `eps`"),
    ],
)
def test_a_header_that_format_1_does_not_allow(tmp_path, fields, why):
    store = making.create(tmp_path / "s")
    making.change(store.path / "actstore.json", **fields)
    with pytest.raises(CorruptError, match=f"not a header of format 1.*{why}"):
        actstore.open(store.path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"part": "../../etc"}, "not the name of a part"),
        ({"files": {"../x": [1, "00000000"]}}, "leads out of the part"),
        ({"files": {"/x": [1, "00000000"]}}, "leads out of the part"),
        ({"files": {"a/../x": [1, "00000000"]}}, "leads out of the part"),
        ({"files": {}}, r"lists no rows\.parquet"),
        ({"batches": [1]}, r"holds batches \[1\]"),
        ({"batches": []}, r"holds batches \[\]"),
        ({"replaces": ["b00000001.json"]}, "which is not what its name says"),
        (
            {"arrays": {"residual/../../eoi": {}}},
            r"array residual/\.\./\.\./eoi: Object missing required field `shape`",
        ),
        ({"files": {"rows.parquet": [1.5, "00000000"]}}, r"file rows\.parquet: Expected `int`, got `float`"),
        ({"rows": None}, r"not a commit record of format 1 \(Expected `int`, got `null` - at `\$.rows`\)"),
        ({"batches": [0.0]}, r"Expected `int`, got `float` - at `\$.batches\[0\]`"),
        ({"files": {"rows.parquet": [1]}}, "Expected `array` of length 2, got 1"),
        ({"by": "me"}, "Expected `object`, got `str`"),
        ({"store": "00000000"}, "committed to another store"),
    ],
)
def test_a_commit_that_format_1_does_not_allow(tmp_path, fields, message):
    store = making.store(tmp_path / "s", 1)
    making.change(making.record(store.path, 0), **fields)
    with pytest.raises(CorruptError, match=message):
        actstore.open(store.path)


@pytest.mark.parametrize(
    "field", ["store", "part", "batches", "replaces", "rows", "samples", "written", "by", "files", "arrays"]
)
def test_a_record_without_one_of_its_fields(tmp_path, field):
    store = making.store(tmp_path / "s", 1)
    path = making.record(store.path, 0)
    rest = {name: value for name, value in records.load(path).items() if name != field}
    path.write_bytes(records.dump(rest))
    with pytest.raises(CorruptError, match=f"missing required field `{field}`"):
        actstore.open(store.path)


def test_an_array_file_that_the_record_leaves_out(tmp_path):
    store = making.store(tmp_path / "s", 1)
    path = making.record(store.path, 0)
    making.change(
        path, files={name: file for name, file in records.load(path)["files"].items() if name[-5:] != "0/0/0"}
    )
    with pytest.raises(CorruptError, match="lists no residual/eoi/c/0/0/0"):
        actstore.open(store.path)


def test_an_array_with_a_strange_name(tmp_path):
    store = making.store(tmp_path / "s", 1)
    path = making.record(store.path, 0)
    found = records.load(path)["arrays"]
    making.change(path, arrays={"other/eoi": found["residual/eoi"]})
    with pytest.raises(CorruptError, match="'other/eoi' is not the name of an array"):
        actstore.open(store.path)


def test_a_commit_of_another_store(tmp_path):
    one, other = making.store(tmp_path / "one", 1), making.create(tmp_path / "other", run={"model": "other"})
    for folder in ("parts", "commits"):
        shutil.copytree(one.path / folder, other.path / folder, dirs_exist_ok=True)
    with pytest.raises(CorruptError, match="committed to another store"):
        actstore.open(other.path)


def test_records_that_changed_places(tmp_path):
    store = making.store(tmp_path / "s")
    making.record(store.path, 1).write_bytes(making.record(store.path, 0).read_bytes())
    with pytest.raises(CorruptError, match="holds batches"):
        actstore.open(store.path)


def test_what_format_1_does_not_name_is_ignored(tmp_path):
    store = making.store(tmp_path / "s", 1)
    (store.path / "commits" / "b1.json").write_text("{")
    (store.path / "commits" / ".b00000001.json.12345678").write_text("{")
    (store.path / "parts" / "notes.txt").write_text("mine")
    (store.path / "README.md").write_text("mine")
    assert actstore.open(store.path).sql("from rows").height == 9
