"""Paths: whatever a folder is called, what is read and written is what lies in it."""

import os
import shutil
import tempfile
from pathlib import Path

import duckdb
import polars as pl
import pytest

import actstore
import making
from actstore.commands import main
from actstore.format.tables import check_columns, read_table, write_table
from actstore.sql import connection, views
from actstore.storage import links

NAMES = {  # a folder -> one beside it that a library would read in its place
    "run[1]": "run1",
    "a*b": "axb",
    "q?x": "qyx",
    "[!a]": "b",
    "**": "deep",
    "{a,b}": "a",
    "back\\slash": "back",
    "\\[1]": "[1]",
    "~": "home",
    "~root": "root",
    "file:x": "x",
    "s3:x": "x",
    "a::b": "a",
    "a=b": "b",
    "50%25": "50%",
    "it's": "its",
    'say "hi" #1;': "say",
    "new\nline": "new",
    "\x1b[31m": "m",
    "ünï": "u",
    "-dash": "dash",
    os.fsdecode(b"\xff"): "ff",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_file_in_a_folder_of_any_name_is_that_file(tmp_path, monkeypatch, name):
    home, folder = tmp_path / "home", tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(home))
    for path, label in ((home, "other"), (Path(NAMES[name]), "other"), (Path(name), "own")):
        path.mkdir(exist_ok=True)
        write_table(path / "x.parquet", pl.DataFrame({"label": [label]}))
    path = Path(name) / "x.parquet"
    with duckdb.connect() as sql:
        assert sql.sql(views.parquet(sql, [path])).to_arrow_table().to_pydict() == {"label": ["own"]}
    assert read_table(path).rows() == [("own",)]
    check_columns(path, {"label": pl.String})
    for path in (Path(name), Path(NAMES[name]), home):
        assert [one.name for one in path.iterdir()] == ["x.parquet"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two stores that differ in their labels."""
    folder = tmp_path_factory.mktemp("two")
    for label in ("own", "other"):
        plan = making.plan(1).with_columns(label=pl.lit(label))
        made = actstore.create(folder / label, plan=plan, layers=making.LAYERS, d_model=8, vocabulary={1: label})
        made.write(0, **making.content(0))
    return folder


@pytest.mark.parametrize(
    ("name", "cached"),
    [("run[1]", True), ("~", False), ("file:x", False), ("/".join(NAMES.keys() - {"q?x"}), True)],
    ids=["pattern", "home", "address", "all"],
)
def test_commands_in_a_folder_of_any_name(two, tmp_path, monkeypatch, capfdbinary, name, cached):
    home, folder = tmp_path / "home", tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", name)
    if cached:
        monkeypatch.setattr(connection, "PARTS_READ_DIRECTLY", 0)
    for other in (folder / "run1", home):
        shutil.copytree(two / "other", other / "s")
    store = Path(name) / "s"
    shutil.copytree(two / "own", store)
    actstore.open(store).save_result("count", pl.DataFrame({"n": [1]}), {})
    for arguments in (
        ["query", "--format=jsonl", "--", store, "select distinct label, (select token from vocab) as t from rows"],
        ["index", "--", store],
        ["verify", "--", store],
    ):
        assert main.run([str(one) for one in arguments]) == 0
    assert capfdbinary.readouterr()[0].startswith(b'{"label":"own","t":"own"}\n')
    shutil.move(store / "index.duckdb", tmp_path / "moved.duckdb")
    with duckdb.connect(tmp_path / "moved.duckdb", read_only=True) as index:
        assert index.sql("select distinct label from samples").fetchall() == [("own",)]
        assert index.sql("from vocab").to_arrow_table().to_pydict() == {"token_id": [1], "token": ["own"]}
    (result,) = actstore.open(store).results()
    assert sorted(path.name for path in store.iterdir()) == sorted(path.name for path in (two / "own").iterdir())
    assert result.table()["n"].to_list() == [1]
    assert list(home.iterdir()) == [home / "s"]
    assert not list((home / "s" / "results").iterdir())


def test_names_that_mean_nothing_to_a_library_are_left_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert links.plain(Path("~/a=b/it's")) == tmp_path / "~" / "a=b" / "it's"


def test_a_link_goes_with_the_process_that_made_it_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    link = links.plain(tmp_path / "[x]" / "rows.parquet")
    assert link.parent.readlink() == tmp_path / "[x]"
    links._remove(link.parents[1], os.getpid() + 1)
    assert link.parents[1].exists()
    links._remove(link.parents[1], os.getpid())
    assert not link.parents[1].exists()


def test_where_no_link_can_be_made_it_is_said(tmp_path, monkeypatch):
    def full(prefix):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(links, "mkdtemp", full)
    with pytest.raises(actstore.ActstoreError, match=r"\[x\]: no link to it .* rename it, or set TMPDIR"):
        links.plain(tmp_path / "[x]" / "rows.parquet")


def test_no_index_below_a_question_mark_but_an_answer(two, tmp_path, monkeypatch, capfdbinary):
    monkeypatch.setattr(connection, "PARTS_READ_DIRECTLY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "q?x"))
    store = tmp_path / "q?x" / "s"
    shutil.copytree(two / "own", store)
    assert main.run(["query", str(store), "select distinct label from rows", "--format", "csv"]) == 0
    assert main.run(["index", str(store)]) == 1
    out, err = capfdbinary.readouterr()
    assert (out, err) == (b"label\nown\n", f"actstore: {store / 'index.duckdb'}: DuckDB writes no index below a folder "
                          "with a ? in its name; rename the folder\n".encode())  # fmt: skip
