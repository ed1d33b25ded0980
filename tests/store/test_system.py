"""What the system refuses: rights, files that fail, odd things where files should be, no home: said as what it is."""

import builtins
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import ActstoreError
from actstore.commands import main
from actstore.maintain import damage, orphans, verify
from actstore.sql import connection
from actstore.storage import cache, local

COMMANDS = [
    ["query", "from rows"],
    ["info"],
    ["results"],
    ["verify"],
    ["gc"],
    ["compact"],
    ["index"],
    ["export", "--layer", "1", "-o", "{out}/x.npy"],
    ["overlap", "--label", "label", "-k", "2"],
    ["score", "--task", "answers"],
    ["report", "-o", "{out}/r.html"],
]
# Runs commands where rights count for root too, and prints how each ended and its last line.
PROGRAM = """
import io, json, sys
from contextlib import redirect_stderr
from actstore.commands import main
ended = []
for command in json.loads(sys.argv[1]):
    said = io.StringIO()
    with redirect_stderr(said):
        status = main.run(command)
    ended.append([status, said.getvalue()])
print(json.dumps(ended))
"""


@pytest.fixture
def path(tmp_path):
    return making.store(tmp_path / "s").path


def without_rights(path, commands):
    """Status and messages of commands in a process to which a file without rights is closed."""
    asked = [[name, str(path), *(one.format(out=path.parent) for one in rest)] for name, *rest in commands]
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    if drop and shutil.which("setpriv") is None:
        pytest.skip("root needs setpriv to give rights up")
    program = [*drop, sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{PROGRAM}", json.dumps(asked)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("closed", ["parts/b00000001-*", pytest.param("actstore.json", marks=pytest.mark.slow)])
def test_without_rights_each_command_says_so_in_a_line(path, closed):
    (target,) = path.glob(closed)
    target.chmod(0)
    try:
        ended = without_rights(path, COMMANDS)
    finally:
        target.chmod(0o755)
    for command, (status, said) in zip(COMMANDS, ended, strict=True):
        assert (status, "Permission denied" in said) == (1, True), (command, said)
        assert "repair" not in said
        assert "missing" not in said
    assert verify.run(verify.steps(path)) == []


def test_what_cannot_be_listed_is_not_empty(path):
    actstore.open(path).save_result("count", actstore.open(path).sql("select 1 n"), {})
    (path / "results").chmod(0)
    try:
        ended = without_rights(path, [["results"], ["verify"], ["query", "from results"]])
    finally:
        (path / "results").chmod(0o755)
    assert [status for status, _ in ended] == [1, 1, 1]
    assert all("results: Permission denied" in said for _, said in ended)


@pytest.fixture
def failing(monkeypatch):
    """Makes files whose path has some text in it fail with an errno when they are opened."""

    def fail(part, code):
        def opened(call):
            def attempt(file, *arguments, **options):
                if part in str(file):
                    raise OSError(code, os.strerror(code), str(file))
                return call(file, *arguments, **options)

            return attempt

        monkeypatch.setattr(os, "open", opened(os.open))
        monkeypatch.setattr("io.open", opened(builtins.open))

    return fail


@pytest.mark.parametrize(
    ("part", "code"),
    [("rows.parquet", errno.EIO), ("residual/eoi/c/0/0/0", errno.ESTALE), ("plan.parquet", errno.EMFILE)],
)
def test_what_could_not_be_read_is_not_damaged(path, failing, capfd, part, code):
    failing(part, code)
    problems = verify.run(verify.steps(path))
    assert problems
    assert all(problem.unread and os.strerror(code) in problem.problem for problem in problems)
    damaged, said = verify.apart(problems)
    assert damaged == []
    assert os.strerror(code) in said
    assert damage.find(path, problems) == []
    assert main.run(["verify", str(path)]) == 1
    said = capfd.readouterr().err
    assert "0 of " in said
    assert "repair" not in said


def test_a_record_that_cannot_be_read_hides_no_damage(path, failing):
    shard = next(path.glob("parts/b00000000-*/residual/eoi/c/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    failing("commits/b00000001.json", errno.EACCES)
    found = {problem.file: problem.unread for problem in verify.run(verify.steps(path))}
    assert found == {
        "commits": True,
        "commits/b00000001.json": True,
        str(shard.relative_to(path)): False,
        str(shard.relative_to(path).parents[5]): False,
    }


def test_what_a_compaction_that_cannot_be_read_replaced_is_not_lost(path, failing):
    making.compact(actstore.open(path), 0, ["b00000000.json", "b00000001.json"])
    for part in path.glob("parts/b0000000[01]-*"):
        shutil.rmtree(part)
    assert verify.run(verify.steps(path)) == []
    shard = next(path.glob("parts/b00000002-*/residual/eoi/c/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    failing("commits/c00000000.json", errno.EACCES)
    found = {problem.file: problem.unread for problem in verify.run(verify.steps(path))}
    assert found == {
        "commits": True,
        "commits/c00000000.json": True,
        str(shard.relative_to(path)): False,
        str(shard.relative_to(path).parents[5]): False,
    }


def test_a_fault_beside_damage_hides_none_of_it(path, failing, capfd):
    shard = next(path.glob("parts/b00000000-*/residual/eoi/c/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    failing("parts/b00000001", errno.EIO)
    assert main.run(["verify", str(path)]) == 1
    said = capfd.readouterr().err
    assert "could not be made" in said
    assert "4 samples are lost unless there is a copy: b0s0" in said


def test_a_read_that_fails_names_its_file(path, monkeypatch):
    def pread(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = actstore.open(path)
    rows = store.sql("from rows where role = 'eoi'")
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(OSError, match="Input/output error") as raised:
        store.residual(rows, 1)
    assert raised.value.filename.endswith("residual/eoi/c/0/0/0")


@pytest.mark.parametrize("name", ["b00000002-0badcafe", "c00000000-0badcafe"])
def test_a_pipe_where_a_part_should_be_is_not_waited_for(path, capfd, name):
    os.mkfifo(path / "parts" / name)
    assert main.run(["gc", str(path), "--older-than", "0", "--complete"]) == 0
    assert not (path / "parts" / name).exists()
    folder = path / "parts" / name
    folder.mkdir()
    os.mkfifo(folder / "rows.parquet")
    assert main.run(["gc", str(path), "--older-than", "0", "--complete"]) == 0
    assert main.run(["verify", str(path)]) == 0


@pytest.mark.parametrize("late", [False, True])
def test_a_table_in_a_pipe_is_read_and_one_that_nobody_writes_is_not_waited_for(path, tmp_path, capfd, late):
    asked = ["query", str(path), "from mine", "--table", f"mine={tmp_path / 'mine.csv'}"]
    os.mkfifo(tmp_path / "mine.csv")
    assert main.run(asked) == 1
    assert "mine.csv: it is a pipe that nobody writes to" in capfd.readouterr().err
    (tmp_path / "mine.csv").unlink()
    reader, writer = os.pipe()
    (tmp_path / "mine.csv").symlink_to(f"/dev/fd/{reader}")  # as a shell's <(...) does

    def write():
        os.write(writer, b"x\n1\n")
        os.close(writer)

    timer = threading.Timer(0.5 * late, write)
    timer.start()
    timer.join(0 if late else None)
    assert main.run(asked) == 0
    assert capfd.readouterr().out == '{"x":1}\n'
    os.close(reader)


def test_a_draft_that_vanishes_under_gc_is_passed_over(path, monkeypatch):
    gone = path / "parts" / "b00000002-0badcafe"
    gone.mkdir()
    listed = orphans._measure
    monkeypatch.setattr(orphans, "_measure", lambda one: (shutil.rmtree(one), listed(one))[1])
    assert orphans.find(path, older_than=0) == []
    monkeypatch.undo()
    assert orphans.remove(orphans.Orphan(gone, 0, 0))


def test_gc_on_a_read_only_disk_says_so(disk_of, capfd):
    path = making.store(disk_of("40M") / "s").path
    (path / "parts" / "b00000002-0badcafe").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", path.parent], check=True)
    assert main.run(["gc", str(path), "--older-than", "0"]) == 1
    assert "Read-only file system; mount it so that it can be written" in capfd.readouterr().err


FULL = [
    *(["query", "from rows", "-o", f"t.{ending}"] for ending in ("csv", "jsonl", "parquet", "md")),
    *(["export", "--layer", "1", "-o", f"x.{ending}"] for ending in ("npy", "safetensors", "csv", "parquet", "h5ad")),
    ["report", "-o", "r.html"],
    ["explore", "--roles", "eoi", "-o", "e.html"],
    ["show", "b0s0", "-o", "s.html"],
]


def test_a_full_disk_is_said_in_a_line_of_every_output(path, disk_of, monkeypatch, capfd):
    """Libraries say so in words of their own: polars, safetensors, HDF5."""
    full = disk_of("16k")
    monkeypatch.chdir(full)
    (full / "rest").write_bytes(bytes(16 * 1024))
    for name, *rest in FULL:
        if rest[-1].endswith("h5ad"):
            pytest.importorskip("h5py")
        assert main.run([name, str(path), *rest]) == 1
        *_, line = capfd.readouterr().err.splitlines()
        assert line.startswith("actstore: ")
        assert line.endswith(": cannot be written: No space left on device"), line
        assert [file for file in full.rglob("*") if file.is_file()] == [full / "rest"]


def test_what_a_library_says_of_the_system_is_no_traceback(path, capfd, monkeypatch):
    monkeypatch.setattr("actstore.store.open", lambda *_, **__: int("I/O error: No space left (os error 28)"))
    assert main.run(["info", str(path)]) == 1
    assert capfd.readouterr().err == "actstore: No space left on device; make room, then run this again\n"


def test_a_cache_that_is_full_or_missing_costs_time_alone(path, disk_of, monkeypatch):
    monkeypatch.setattr(connection, "PARTS_READ_DIRECTLY", 1)
    full = disk_of("64k")
    monkeypatch.setenv("XDG_CACHE_HOME", str(full))
    assert actstore.open(path).sql("from rows").height == 27
    assert [file for file in full.rglob("*") if file.is_file()] == []
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    assert actstore.open(path).sql("from rows").height == 27


def test_drafts_of_killed_programs_leave_the_cache(path, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "PARTS_READ_DIRECTLY", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = cache.folder()
    folder.mkdir(parents=True)
    left = [folder / name for name in (".x.duckdb.0badcafe", ".x.duckdb.0badcafe.wal", ".x.duckdb.deadbeef", "own")]
    for file in left:
        file.touch()
        if "deadbeef" not in file.name:
            os.utime(file, (0, 0))
    actstore.open(path).sql("from rows")
    assert [file.exists() for file in left] == [False, False, True, True]


def test_long_names_can_be_written(path, tmp_path):
    for name in (f"{'x' * 245}.csv", f"{'é' * 120}.csv"):
        assert main.run(["query", str(path), "from plan", "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().startswith("batch,")
    assert len(os.fsencode(local.draft_of(tmp_path / ("é" * 127)).name)) <= 255


def test_a_store_can_be_pickled_as_it_was_when_opened(tmp_path):
    store = making.create(tmp_path / "s")
    store.write(0, **making.content(0))
    before = actstore.open(store.path)
    rows = before.sql("from rows where role = 'eoi'")
    content = pickle.dumps(before)
    store.write(1, **making.content(1))
    after = pickle.loads(content)
    assert (after.state, after.limits, len(after.parts)) == (before.state, before.limits, 1)
    assert_array_equal(after.residual(rows, 1), before.residual(rows, 1))
    assert after.sql("from rows").height == 9


def test_a_fork_reads_vectors_and_says_what_it_cannot(path):
    program = f"""
        import multiprocessing, os, sys
        sys.path[:0] = {sys.path!r}
        import actstore
        main = actstore.open({str(path)!r})
        ids = main.sql("select row_id from rows where role = 'eoi' order by row_id")["row_id"].to_list()

        def read(_):
            store = actstore.open({str(path)!r})
            found = float(store.residual(ids, 1).sum() + main.residual(ids, 1).sum())
            said = []
            for ask in (lambda: store.sql("from rows"), lambda: main.plan, lambda: main.draft(0)):
                try:
                    ask()
                except RuntimeError as error:
                    said.append(str(error))
            return found, said

        with multiprocessing.get_context("fork").Pool(1) as pool:
            found, said = pool.map_async(read, [0]).get(timeout=30)[0]
        assert found == 2 * float(main.residual(ids, 1).sum()), found
        assert len(said) == 3 and all("start it by spawn" in one for one in said), said
        child = os.fork()
        if not child:
            sys.exit(0 if main.residual(ids, 1).shape[0] else 1)
        assert os.waitpid(child, 0)[1] == 0  # and ends as any process does
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("encoding", ["ascii"])
def test_a_terminal_without_utf_8_is_written_to(path, tmp_path, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    store = path.rename(tmp_path / "größe→")
    done = subprocess.run(
        [sys.executable, "-m", "actstore", "info", store, "--format", "table"], capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert b"model" in done.stdout


def test_a_name_that_is_no_utf_8_can_be_used(path, tmp_path, capfd):
    store = path.rename(Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe")))
    for command in (["query", "from rows"], ["verify"], ["gc"], ["index"], ["overlap", "--label", "label", "-k", "2"]):
        assert main.run([command[0], str(store), *command[1:]]) in (0, 1), command
        assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(ActstoreError, match="no column"):
        actstore.open(store).sql("select missing from rows")


def test_a_user_that_the_system_does_not_know_measures_too(path):
    program = f"""
        import pwd, sys
        sys.path[:0] = {sys.path!r}
        pwd.getpwuid = {{}}.__getitem__
        from actstore.commands import main
        status = main.run(["overlap", {str(path)!r}, "--label", "label", "-k", "2", "--format", "csv"])
        import actstore_analyze
        found = actstore_analyze.measure({str(path)!r}, "overlap", label="label", k=3)
        print(found.table.write_csv())
        sys.exit(status)
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert rows.count(first) == 1
    assert done.stdout.count("eoi") >= 2
