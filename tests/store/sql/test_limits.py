"""Limits: questions that never end or never fit, and stores that promise more than there is."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time

import duckdb
import pytest

import actstore
import making
from actstore import ActstoreError, Limits, QueryError, process
from actstore.commands import main
from actstore.maintain import compaction, orphans, verify


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s", 1).path


ENDLESS = {
    "recursion": "with recursive t as (select 1 i union all select i + 1 from t) select count(*) from t",
    "join": "select count(*) from range(100000000) a, range(100000000) b where a.range * b.range % 7 = 3",
    "result": "select i from range(100000000000000) t(i) where i % 7 = 9",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_question_that_never_ends(path, name):
    store = actstore.open(path, limits=Limits(seconds=0.3))
    begin = time.monotonic()
    with pytest.raises(QueryError, match=r"^not answered within 0\.3 seconds; ask for less, or .*query --seconds"):
        store.sql(ENDLESS[name])
    assert time.monotonic() - begin < 20
    assert store.sql("select count(*) n from rows").item() == 9  # the store is as good as before


def test_a_question_that_ends_in_time_leaves_no_thread(path):
    store = actstore.open(path)
    for _ in range(20):
        store.sql("select 1")
    time.sleep(0.2)
    assert "actstore limits" not in {thread.name for thread in threading.enumerate()}


def test_a_question_that_needs_much_memory(path):
    store = actstore.open(path, limits=Limits(gigabytes=0.05))
    with pytest.raises(QueryError, match=r"the query needs more than 0\.05 GB of memory; .*query --gigabytes"):
        store.sql("select count(*) from (select distinct range, random() from range(100000000))")


def test_a_result_that_never_fits(path):
    store = actstore.open(path, limits=Limits(gigabytes=0.05))
    with pytest.raises(QueryError, match=r"the result is larger than 0\.05 GB; aggregate, select fewer"):
        store.sql("select range, range::varchar from range(100000000000)")


def test_nothing_is_written_beside_a_large_question(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryError, match="more than"):
        actstore.open(path, limits=Limits(gigabytes=0.05)).sql("from range(30000000) order by hash(range)")
    assert list(tmp_path.iterdir()) == []


def test_a_question_cannot_lift_its_limits(path):
    store = actstore.open(path, limits=Limits(gigabytes=0.05))
    with pytest.raises(QueryError, match="one SELECT"):
        store.sql("set memory_limit = '10GB'")
    assert store.sql("select current_setting('memory_limit')").item() == "47.6 MiB"


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"gigabytes": -1}, {"seconds": float("nan")}])
def test_limits_that_leave_nothing(wrong):
    with pytest.raises(ActstoreError, match="leave nothing to work with"):
        Limits(**wrong)


def test_the_command_has_limits(path, capfd):
    assert main.run(["query", str(path), ENDLESS["recursion"], "--seconds", "0.2"]) == 1
    assert capfd.readouterr().err.startswith("actstore: not answered within 0.2 seconds")
    assert main.run(["query", str(path), "from range(100000000000)", "--gigabytes", "0.01"]) == 1
    assert capfd.readouterr().err.startswith("actstore: the result is larger than 0.01 GB")
    assert main.run(["query", str(path), "select 1 as n", "--gigabytes", "1", "--seconds", "9"]) == 0
    assert json.loads(capfd.readouterr().out) == {"n": 1}


def asked(path, query, *options):
    """A question in a process of its own: exit status, what it says, seconds and megabytes that it took."""
    program = (
        "from actstore import limits; from actstore.commands import main as cli; limits.PATIENCE = 1\n"
        "try: cli.main()\n"  # ru_maxrss would begin with what the tests themselves hold
        "finally: print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    begin = time.monotonic()
    command = [sys.executable, "-c", program, "query", str(path), query, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    megabytes = int(done.stdout.split()[-1]) / 1000 if done.stdout else 0
    return done.returncode, done.stderr, time.monotonic() - begin, megabytes


@pytest.mark.parametrize(
    "query",
    [
        "select length(repeat('x', 4000000000))",
        "select len(range(1000000000))",
        "select repeat('a', 100000000) from range(100)",
    ],
)
def test_one_call_of_a_function_keeps_to_the_memory_of_a_command(path, query):
    tries = (asked(path, query, "--gigabytes", "0.2") for _ in range(3))
    # A library that is refused memory where it cannot say so may abort the process: rarely, and not three times.
    status, said, _, megabytes = next((one for one in tries if one[0] != -signal.SIGABRT), (None, "", 0, 0))
    assert status == 1
    assert said.startswith("actstore: the ")
    assert "larger than 0.2 GB" in said or "more than 0.2 GB" in said
    assert said.count("\n") == 1
    assert megabytes < 200 + 500 + process.SLACK / 1e6  # 500: Python, DuckDB and Arrow themselves


def test_one_call_of_a_function_keeps_to_the_time_of_a_command(path):
    query = "select levenshtein(repeat('a', 200000) || any_value(role), repeat('b', 400000)) from rows"
    status, said, seconds, _ = asked(path, query, "--seconds", "0.5")
    assert status == 1
    assert said.startswith("actstore: not answered within 0.5 seconds; ask for less")
    assert said.endswith("it did not stop when it was told to, and was ended\n")
    assert seconds < 20


def test_too_little_memory_for_anything(path):
    status, said, _, _ = asked(path, "from rows", "--gigabytes", "0.000001")
    assert status == 1
    assert said == (
        "actstore: the query needs more than 1e-06 GB of memory; ask for less, or give it more "
        "(query --gigabytes, actstore.Limits)\n"
    )


def test_vectors_and_attention_that_do_not_fit_are_refused_first(path):
    row_ids = actstore.open(path).sql("from rows")["row_id"].to_numpy()
    store = actstore.open(path, limits=Limits(gigabytes=1e-7))
    allowed = r"e-07 GB of memory, and 1e-07 are allowed; .*or allow more: actstore\.open\(path, limits="
    with pytest.raises(ActstoreError, match=rf"^9 vectors would take 2\.9{allowed}"):
        store.residual(row_ids, 0)
    with pytest.raises(
        ActstoreError, match=r"^attention to 'eoi' would take .* and 1e-07 are allowed; ask for fewer rows"
    ):
        store.attention("eoi", 0)


# Who asks never stands in the way of who writes


def test_a_question_blocks_no_writer(tmp_path):
    """Writing, compacting, collecting and indexing go on while questions run that never end."""
    path = making.create(tmp_path / "s", 4).path
    writer = actstore.open(path)
    writer.write(0, **making.content(0))
    reader = actstore.open(path, limits=Limits(seconds=600))
    running = reader._connection.cursor()
    asked = threading.Thread(target=_ask, args=(running, ENDLESS["join"]))
    asked.start()
    for batch in (1, 2, 3):
        writer.write(batch, **making.content(batch))
    actstore.open(path).write_index()
    (done,) = compaction.compact(path)
    assert done.batches == (0, 1, 2, 3)
    assert orphans.find(path, older_than=0) == []
    assert verify.run(verify.steps(path)) == []
    assert asked.is_alive()
    while asked.is_alive():  # an interruption that comes before a query begins is forgotten
        running.interrupt()
        asked.join(0.1)
    assert reader.sql("select count(*) n from rows").item() == 9  # what it opened


def _ask(cursor, query):
    with contextlib.suppress(duckdb.Error):
        cursor.execute(query).fetchall()


HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); held.sql('from rows'); print(flush=True); input()"


def test_an_index_that_another_program_holds_open_is_written_anew(tmp_path):
    store = making.create(tmp_path / "s", 2)
    store.write(0, **making.content(0))
    built = actstore.open(store.path).write_index()
    command = [sys.executable, "-c", HOLD, built]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "\n"
        store.write(1, **making.content(1))
        actstore.open(store.path).write_index()
        other.communicate("")
    with duckdb.connect(built, read_only=True) as connection:
        assert connection.sql("select count(*) from rows").fetchall() == [(18,)]


def test_ctrl_c_ends_a_query_that_is_in_c(path):
    """An aggregate over a product of ranges gives Python no turn until it is done."""
    program = f"""
import actstore
store = actstore.open({str(path)!r})
store.sql("from rows limit 1")
print("asked", flush=True)
try:
    store.sql("select count(*) from range(100000000) a, range(1000000) b where hash(a.range, b.range) % 7 = 1")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    asked = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert asked.stdout is not None
    assert asked.stdout.readline() == "asked\n"
    time.sleep(1)
    asked.send_signal(signal.SIGINT)
    assert asked.communicate(timeout=60)[0] == "interrupted\n"
    assert asked.returncode == 0


def test_ctrl_c_while_a_question_ends_leaves_nothing_behind(path, monkeypatch):
    """What watches over a question is gone before the interruption is one: it would have heard that of the next."""
    joined = threading.Thread.join

    def join(thread, *arguments):
        if thread.name == "actstore limits":
            signal.raise_signal(signal.SIGINT)
        joined(thread, *arguments)

    store = actstore.open(path)
    everything = store.sql("from rows")
    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(KeyboardInterrupt):
        store.sql("from rows")
    monkeypatch.undo()
    assert "actstore limits" not in {thread.name for thread in threading.enumerate()}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert store.sql("from rows").equals(everything)
