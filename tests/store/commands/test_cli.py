import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import actstore
import making
from actstore import handing
from actstore.commands import main, plugins, table
from actstore.errors import ActstoreWarning

OWN = ["info", "query", "index", "verify", "gc", "compact", "export", "demo"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s").path


def run(capfdbinary, *arguments):
    """Exit status, standard output and standard error of a command."""
    status = main.run([str(argument) for argument in arguments])
    out, err = capfdbinary.readouterr()
    return status, out.decode(), err.decode()


@pytest.mark.parametrize("command", sorted(main.cli.list_commands(click.Context(main.cli))))
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(main.cli, [command, "--help"])
    assert result.exit_code == 0
    assert re.search(rf"Example:\n +actstore {command}\b", result.output)


@pytest.mark.parametrize("command", OWN)
def test_examples_are_commands_that_exist(command):
    for line in re.findall(r"^ +actstore (.*)$", main.cli.commands[command].help, re.MULTILINE):
        name, *arguments = shlex.split(line)
        main.cli.commands[name].make_context(name, arguments)


def test_help_of_all(capfdbinary):
    status, out, _ = run(capfdbinary, "--help")
    assert status == 0
    assert all(re.search(rf"^  {command} ", out, re.MULTILINE) for command in OWN)


def test_query_prints_json_lines_into_a_pipe(path, capfdbinary):
    query = (
        "select role, count(*) as n, sum(k) as k, max(label) filter (false) as x from rows group by all order by all"
    )
    assert run(capfdbinary, "query", path, query) == (
        0,
        '{"role":"eoi","n":9,"k":0,"x":null}\n{"role":"image","n":18,"k":9,"x":null}\n',
        "",
    )


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("table", "role   x\neoi    [1, 2]\nimage  [1, 2]\n"),
        ("csv", 'role,x\neoi,"[1, 2]"\nimage,"[1, 2]"\n'),
        ("json", '[{"role":"eoi","x":[1,2]},{"role":"image","x":[1,2]}]\n'),
        ("jsonl", '{"role":"eoi","x":[1,2]}\n{"role":"image","x":[1,2]}\n'),
        ("markdown", "| role | x |\n| --- | --- |\n| eoi | [1, 2] |\n| image | [1, 2] |\n"),
    ],
)
def test_formats(path, capfdbinary, style, text):
    query = "select distinct role, [1, 2] as x from rows order by role"
    status, out, err = run(capfdbinary, "query", path, query, "--format", style)
    assert (status, re.sub(r" +\n", "\n", out), err) == (0, text, "")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("x.parquet", pl.read_parquet),
        ("x.csv", pl.read_csv),
        ("x.json", pl.read_json),
        ("x.jsonl", pl.read_ndjson),
    ],
)
def test_the_suffix_of_a_file_says_how(path, capfdbinary, tmp_path, name, read):
    query = "select row_id, role, label from rows order by row_id"
    assert run(capfdbinary, "query", path, query, "-o", tmp_path / name) == (0, "", "")
    assert read(tmp_path / name).rows() == actstore.open(path).sql(query).rows()


@pytest.mark.parametrize("style", ["json", "jsonl"])
def test_json_in_json_is_no_text(tmp_path, capfdbinary, style):
    opened = making.store(tmp_path / "s")
    path = opened.path
    opened.save_result("probe", pl.DataFrame({"x": [1]}), {"layers": [0, 1], "label": "a \u2028 b", "sql": None})
    versions = opened.results()[0].versions
    asked = "select parameters, versions, '[1]' as mine from results"
    for arguments in (["results", path], ["query", path, asked]):
        status, out, err = run(capfdbinary, *arguments, "--format", style)
        assert (status, err) == (0, "")
        (row,) = json.loads(out) if style == "json" else map(json.loads, out.removesuffix("\n").split("\n"))
        assert (row["parameters"], row["versions"]) == (opened.results()[0].parameters, versions)
    assert row["mine"] == "[1]"  # a text of the user's own stays one
    assert run(capfdbinary, "query", path, "from results where false", "--format", style)[1] in ("[]\n", "")


def test_info_in_a_pipe_is_json(path, capfdbinary):
    status, out, _ = run(capfdbinary, "info", path)
    card = json.loads(out)
    assert status == 0
    assert (card["model"], card["planned"], card["parts"]) == ("tiny", 12, 3)
    assert card["samples"] == [{"status": "failed", "n": 3}, {"status": "ok", "n": 9}]
    assert {(array["kind"], array["role"], array["n"]) for array in card["arrays"]} == {
        ("residual", "eoi", 9),
        ("residual", "image", 18),
        ("attention", "eoi", 12),
    }


def test_info_for_a_person(path, capfdbinary):
    status, out, _ = run(capfdbinary, "info", path, "--format", "table")
    assert status == 0
    for line in (
        "model    tiny",
        "samples  9 ok, 3 failed, 0 not done",
        "layers   0..2 of width 8, stored as bfloat16",
    ):
        assert f"{line}\n" in out
    assert re.search(r"^residual +eoi +9 +\d+", out, re.MULTILINE)


def test_verify(path, capfdbinary, tmp_path):
    assert run(capfdbinary, "verify", path) == (0, "", f"{path}: 30 checks, all good\n")
    broken = making.store(tmp_path / "s", 1)
    (broken.parts[0].folder / "residual/eoi/c/0/0/0").write_bytes(b"")
    status, out, err = run(capfdbinary, "verify", broken.path)
    assert status == 1
    assert json.loads(out.splitlines()[0])["file"].endswith("residual/eoi/c/0/0/0")
    assert re.search(r"2 of 12 checks failed; the table above names the files", err)


def test_gc(capfdbinary, tmp_path):
    path = making.store(tmp_path / "s", 1).path
    orphan = path / "parts" / "b00000000-0badcafe"
    orphan.mkdir()
    assert run(capfdbinary, "gc", path) == (0, "", f"{path}: 0 orphans older than 24 hours\n")
    status, out, _ = run(capfdbinary, "gc", path, "--older-than", "0", "--dry-run")
    assert (status, out) == (0, f"would remove {orphan} (0.0 MB)\n")
    assert orphan.exists()
    assert run(capfdbinary, "gc", path, "--older-than", "0")[1] == f"removed {orphan} (0.0 MB)\n"
    assert not orphan.exists()


def test_index(capfdbinary, tmp_path):
    path = making.store(tmp_path / "s", 1).path
    assert run(capfdbinary, "index", path) == (0, f"{path}/index.duckdb\n", "")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["info", "{here}/nothing"], 1, "actstore: {here}/nothing is not a store: it has no actstore.json\n"),
        (["query", "{path}", "from row"], 1, "actstore: no view 'row'; did you mean 'rows'?"),
        (["query", "{path}", "drop table plan"], 1, "actstore: one SELECT"),
        (
            ["query", "{path}", "from rows", "-o", "/dev/null/x.csv"],
            1,
            "x.csv: cannot be written: /dev/null is no folder",
        ),
        (["export", "{path}", "--layer", "0", "-o", "{here}/x.txt"], 1, "export writes .parquet, .h5ad, .npy, "),
        (["export", "{path}", "--layer", "7", "-o", "{here}/x.npy"], 1, "layer 7 is not in this store; it has 0..2"),
        (["export", "{path}", "from samples", "--layer", "0", "-o", "{here}/x.npy"], 1, "no column row_id"),
        (["query", "{path}"], 2, "Missing argument 'SQL'"),
        (["query", "{path}", "select $x", "-p", "x", "1", "-p", "x", "2"], 2, "-p: 'x' is named twice"),
        (["query", "{path}", "from t", "--table", "t=a.csv", "--table", "t=b.csv"], 2, "--table: 't' is named twice"),
        (["query", "{path}", "from rows", "--format", "xml"], 2, "'xml' is not one of"),
        (["export", "{path}", "-o", "{here}/x.npy"], 2, "Missing option '--layer'"),
        (["query", "from rows", "{path}"], 1, "it has no actstore.json; the store comes first, then the SQL"),
        (["extract", "{path}", "r.toml"], 1, "{path}' is a store, no recipe: the recipe comes first, then the store"),
        (["{path}", "info"], 2, "no command '{path}'; the command comes first: info"),
        (["qeury"], 2, "no command 'qeury'; did you mean 'query'?"),
        (["--nonsense"], 2, "No such option"),
        ([], 2, "Usage: actstore"),
    ],
)
def test_mistakes_have_a_message_and_a_status(path, capfdbinary, tmp_path, arguments, status, message):
    names = {"path": path, "here": tmp_path}
    found, out, err = run(capfdbinary, *(argument.format(**names) for argument in arguments))
    assert (found, out) == (status, "")
    assert message.format(**names) in err
    assert "Traceback" not in err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_error(path, unbuffered):
    many = "select a.* from rows a, rows b, rows c"
    program = f"from actstore.commands.main import main; main(['query', {str(path)!r}, {many!r}])"
    command = f"{sys.executable} -c {shlex.quote(program)} | head -1"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["role"] == "image"


def test_ctrl_c_has_a_status_of_its_own(monkeypatch, capfdbinary, path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("actstore.store.Store.sql", interrupt)
    status, _, err = run(capfdbinary, "query", path, "from rows")
    assert (status, err.strip()) == (130, "actstore: interrupted")


# Commands of extras that are not installed


class Entry:
    def __init__(self, module):
        self.name, self.module = "cluster", module

    def load(self):
        raise ModuleNotFoundError(f"No module named '{self.module}'", name=self.module)


@pytest.fixture
def uninstalled(monkeypatch):
    group = plugins.Commands(name="actstore", commands=main.cli.commands)
    group.__dict__["_found"] = {"cluster": Entry("faiss.swigfaiss")}
    monkeypatch.setattr(main, "cli", group)
    return group


def test_help_without_the_extras(uninstalled, capfdbinary):
    status, out, _ = run(capfdbinary, "--help")
    assert status == 0
    assert re.search(r"^  cluster +this command needs faiss; install it with: pip", out, re.MULTILINE)


@pytest.mark.parametrize("arguments", [[], ["store", "--k", "3"], ["-x"]])
def test_a_missing_extra_prints_its_pip_line(uninstalled, capfdbinary, arguments):
    status, _, err = run(capfdbinary, "cluster", *arguments)
    assert status == 1
    assert err.startswith("Error: this command needs faiss; install it with: pip install 'altair>=5.5' 'faiss-cpu>=")


def test_a_module_missing_while_a_command_runs(uninstalled, capfdbinary):
    @uninstalled.command()
    def late():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    status, _, err = run(capfdbinary, "late")
    del main.cli.commands["late"]
    assert status == 1
    assert re.fullmatch(r"Error: this command needs torch; install it with: pip install .*'torch>=[\d.]+' .*\n", err)


def test_a_bug_is_no_missing_extra(uninstalled):
    uninstalled.__dict__["_found"] = {"cluster": Entry("actstore_analyze.nowhere")}
    with pytest.raises(ModuleNotFoundError):
        main.run(["cluster"])


def test_every_extra_is_one_of_the_package():
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    for extra in set(handing.EXTRAS.values()):
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE)


def test_long_cells_are_cut():
    assert table._cell("x" * 61) == "x" * 58 + ", …"


def test_without_the_command_on_the_path(path):
    done = subprocess.run(
        [sys.executable, "-m", "actstore", "query", str(path), "select count(*) n from samples"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"n": 12}), done.stderr
    assert (
        "Usage: actstore "
        in subprocess.run([sys.executable, "-m", "actstore", "--help"], capture_output=True, text=True).stdout
    )


def test_tab_offers_what_there_is():
    assert dir(actstore) == sorted(actstore.__all__)
    assert {"open", "create", "Store"} <= {*dir(actstore)}
    with pytest.raises(AttributeError, match="module 'actstore' has no attribute 'opne'"):
        actstore.opne  # noqa: B018


def test_numbers_beyond_what_floats_hold_are_said_once(path, monkeypatch, capfd):
    def overflow(_):
        for power in (1e200, 1e300):
            np.multiply(np.array([1e300]), power)

    monkeypatch.setattr(main.cli.commands["info"], "invoke", overflow)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main.run(["info", str(path)]) == 0
    said = "some numbers are beyond what floats hold; what comes of them is infinite or NaN (overflow encountered in"
    assert re.fullmatch(rf"actstore: {re.escape(said)} multiply\)\n", capfd.readouterr().err)


def test_a_warning_is_said_once_whoever_sets_filters_meanwhile(path, monkeypatch, capfd):
    def warned(_):
        for _ in range(3):
            with warnings.catch_warnings():  # Python forgets then what it showed
                warnings.warn("left out", ActstoreWarning, stacklevel=1)

    monkeypatch.setattr(main.cli.commands["info"], "invoke", warned)
    assert main.run(["info", str(path)]) == 0
    assert capfd.readouterr().err == "actstore: left out\n"
