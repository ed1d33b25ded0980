"""Exit statuses, as a script sees them: the table in the documents, and real processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import making
from actstore.commands import demo, main
from actstore.commands.statuses import MEANINGS, Status
from actstore.write.drafts import Draft

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s").path


def actstore(*arguments, **options):
    program = [sys.executable, "-m", "actstore", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, **options)


def test_the_table_is_in_the_documents_and_in_the_help(capfd):
    table = PAGE.partition("| status | |\n")[2].partition("\n\n")[0]
    listed = dict(re.findall(r"^\| (\d+) \| (.+) \|$", table, re.MULTILINE))
    assert listed == {str(int(status)): said for status, said in MEANINGS.items()}
    assert main.run(["--help"]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert all(f"{status} {said}" in told for status, said in MEANINGS.items())


def test_done_error_and_usage(path):
    assert actstore("gc", path).returncode == Status.DONE
    done = actstore("info", path.parent)
    assert (done.returncode, done.stdout) == (Status.ERROR, "")
    assert done.stderr.startswith("actstore: ")
    assert actstore("info", path, "--nonsense").returncode == Status.USAGE


def test_what_could_not_be_saved(disk_of, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Draft, "_check_space", lambda *_: None)
    store = making.store(disk_of("4M") / "s")
    subprocess.run(["mount", "-o", "remount,ro", store.path.parent], check=True)
    for command in (["outliers"], ["score", "--task", "answers", "--said", "label", "--truth", "label"]):
        status = main.run([command[0], str(store.path), *command[1:], "--format", "json"])
        out, err = capfd.readouterr()
        assert status == Status.NOT_SAVED, err
        assert "not saved: " in err
        assert out.startswith("[{")
    assert main.run(["report", str(store.path), "-o", str(tmp_path / "r.html")]) == Status.NOT_SAVED
    assert f"{store.path}: not saved: " in capfd.readouterr().err
    assert "Label overlap" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("ended", "status"), [([0, 0], Status.DONE), ([0, 3, 0], Status.IN_PART), ([4, 3], Status.NOT_SAVED)]
)
def test_a_demo_ends_as_the_worst_of_its_steps(monkeypatch, capfd, tmp_path, ended, status):
    left = iter(ended)

    def step(_):
        raise main.click.exceptions.Exit(next(left))

    monkeypatch.setattr(main.cli.commands["info"], "invoke", step)
    monkeypatch.setattr(demo, "steps", lambda _: iter([["info", "s"]] * len(ended)))
    assert main.run(["demo", "--out", str(tmp_path)]) == status


@pytest.mark.parametrize("stream", ["full", "closed"])
def test_a_standard_output_that_cannot_be_written(path, stream):
    where = ">/dev/full" if stream == "full" else ">&-"
    program = f'"{sys.executable}" -m actstore query "{path}" "from plan" {where}'
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert done.returncode == Status.ERROR
    assert done.stderr in (
        "actstore: standard output: No space left on device; make room, then run this again\n",
        "actstore: standard output is closed; write to a file: -o FILE\n",
    )


def test_a_standard_error_that_cannot_be_written_ends_nothing(path):
    program = f'"{sys.executable}" -m actstore verify "{path}" 2>/dev/full; echo $?'
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
