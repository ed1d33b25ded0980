"""What commands write for a user: in no store, whole or not at all."""

import os

import numpy as np
import polars as pl
import pytest

import actstore
import making
from actstore import ActstoreError
from actstore.commands import main, table
from actstore.commands.outputs import written


@pytest.fixture
def path(tmp_path):
    return making.store(tmp_path / "s", 1).path


def content(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("output", ["plan.parquet", "actstore.json", "new.csv", "results/x.parquet", "deep/er/x.csv"])
@pytest.mark.parametrize(
    "command",
    [
        ["query", "{s}", "from plan"],
        ["info", "{s}"],
        ["results", "{s}"],
        ["verify", "{s}"],
        ["export", "{s}", "--layer", "0"],
        ["overlap", "{s}", "--label", "label"],
        ["report", "{s}"],
    ],
    ids=lambda command: command[0],
)
def test_nothing_is_written_into_a_store(path, capfdbinary, command, output):
    before = content(path)
    assert main.run([*(one.format(s=path) for one in command), "-o", str(path / output)]) == 1
    assert b"is inside the store" in capfdbinary.readouterr()[1]
    assert content(path) == before


@pytest.mark.parametrize("way", ["link", "dots"])
def test_nor_by_another_way(path, capfdbinary, way):
    before = content(path)
    (path.parent / "way").symlink_to(path / "plan.parquet")
    output = path.parent / "way" if way == "link" else path.parent / "s" / ".." / "s" / "plan.parquet"
    assert main.run(["query", str(path), "from plan", "-o", str(output)]) == 1
    assert b"is inside the store" in capfdbinary.readouterr()[1]
    assert content(path) == before


def test_a_link_that_leads_to_itself_is_replaced(path, capfdbinary):
    for output in (path / "index.duckdb", path.parent / "rows.csv"):
        output.symlink_to(output.name)
    assert main.run(["index", str(path)]) == 0
    assert main.run(["query", str(path), "from plan", "-o", str(path.parent / "rows.csv")]) == 0
    assert not output.is_symlink()
    assert pl.read_csv(output).height == 4


def test_no_store_is_made_in_a_store(path):
    with pytest.raises(ActstoreError, match="new is inside the store .*s: choose a folder elsewhere"):
        making.create(path / "parts" / "new")
    assert main.run(["demo", "--out", str(path / "demo")]) == 1


@pytest.mark.parametrize("style", ["csv", "parquet", "table"])
def test_what_fails_leaves_what_was_there(path, tmp_path, monkeypatch, style):
    out = tmp_path / "out" / "x"
    out.parent.mkdir()
    out.write_text("old")

    def fail(_frame, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(table._WRITERS, style, fail)
    assert main.run(["query", str(path), "from plan", "--format", style, "-o", str(out)]) == 1
    assert content(out.parent) == {out: b"old"}


def test_what_is_written_replaces_and_keeps_mode_and_link(path, tmp_path):
    old, link = tmp_path / "old.csv", tmp_path / "link.csv"
    old.write_text("old")
    old.chmod(0o600)
    link.symlink_to(old)
    assert main.run(["query", str(path), "select 1 as x", "-o", str(link)]) == 0
    assert (link.readlink(), old.read_text(), old.stat().st_mode & 0o777) == (old, "x\n1\n", 0o600)


def test_a_pipe_is_written_to(path, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert main.run(["query", str(path), "select 1 as x", "--format", "csv", "-o", str(tmp_path / "pipe")]) == 0
    assert os.read(reader, 100) == b"x\n1\n"
    os.close(reader)
    assert main.run(["query", str(path), "select 1 as x", "-o", os.devnull]) == 0


def test_each_export_has_rows_of_its_own(path, tmp_path):
    for suffix, role in (("npy", "eoi"), ("safetensors", "image")):
        query = f"from rows where role = '{role}'"
        assert main.run(["export", str(path), query, "--layer", "1", "-o", str(tmp_path / f"x.{suffix}")]) == 0
    for suffix, role in (("npy", "eoi"), ("safetensors", "image")):
        assert pl.read_parquet(tmp_path / f"x.{suffix}.rows.parquet")["role"].unique().to_list() == [role]
    rows = actstore.open(path).sql("from rows where role = 'eoi'")
    assert np.array_equal(np.load(tmp_path / "x.npy"), making.expected(rows, 1))


@pytest.mark.parametrize("suffix", ["parquet", "npy", "safetensors", "sae-lens"])
def test_an_export_of_nothing_is_an_error(path, tmp_path, capfdbinary, suffix):
    out = tmp_path / "out" / f"x.{suffix}"
    out.parent.mkdir()
    assert main.run(["export", str(path), "from rows where false", "--layer", "1", "-o", str(out)]) == 1
    assert b": not written, the query chooses no rows" in capfdbinary.readouterr()[1]
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("suffix", ["parquet", "npy", "safetensors"])
def test_an_export_that_fails_leaves_both_files(path, tmp_path, monkeypatch, suffix):
    out = tmp_path / "out" / f"x.{suffix}"
    out.parent.mkdir()
    assert main.run(["export", str(path), "from rows limit 2", "--layer", "1", "-o", str(out)]) == 0
    before = content(out.parent)
    (shard,) = path.glob("parts/*/residual/image/c/0/0/0")
    shard.write_bytes(bytes(shard.stat().st_size))
    assert main.run(["export", str(path), "from rows", "--layer", "1", "-o", str(out)]) == 1
    assert content(out.parent) == before


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ActstoreError, match="x: cannot be written: .*file is no folder"),
        written(tmp_path / "file" / "x"),
    ):
        pass


def test_folders_that_are_missing_are_made(path, tmp_path):
    for words in (["query", path, "from plan"], ["export", path, "--layer", "0"]):
        output = tmp_path / words[0] / "deep" / "x.parquet"
        assert main.run([*map(str, words), "-o", str(output)]) == 0
        assert output.is_file()


@pytest.mark.parametrize("name", ["t.xlsx", "t.csv.gz", "t.tsv"])
def test_a_file_of_another_form_is_refused_before_anything_is_computed(path, tmp_path, capfd, name):
    """A spreadsheet would not open JSON lines that are called one of its own."""
    out = tmp_path / name
    assert main.run(["query", str(path), "from nothing", "-o", str(out)]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert f"'{out}': a table is one of .csv, .json, .jsonl, .md, .parquet, .txt, or what --format says" in said
    assert main.run(["query", str(path), "select 1 as x", "--format", "csv", "-o", str(out)]) == 0
    assert out.read_text() == "x\n1\n"
    assert main.run(["query", str(path), "select 1 as x", "-o", str(tmp_path / "T.CSV")]) == 0
    assert (tmp_path / "T.CSV").read_text() == "x\n1\n"
