"""Readers against bytes that nobody meant: an ActstoreError or a store, never another exception, never a crash."""

import copy
import json
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import actstore
import making
from actstore import ActstoreError, process
from actstore.format import records, results, shards, tables
from actstore.format.commits import Commit
from actstore.format.header import Header
from actstore.maintain import verify
from strategies import JSON

QUICK, LONG = 25, 2000  # inputs for each test, in the suite and in the slow one

NUMBERS = st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, 0.5, True])
NAMES = st.sampled_from(
    ["", ".", "..", "/", "../x", "a/../b", "residual/eoi", "b00000000.json", "c00000000.json", "\0"]
)
STRANGE = JSON | NUMBERS | NAMES | st.lists(NUMBERS | NAMES, max_size=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return making.kv_store(tmp_path_factory.mktemp("stores") / "s", 1).path


@pytest.fixture(scope="module", autouse=True)
def memory():
    """No input makes this process take 2 GB more than it has: what asks for more fails, or ends the tests."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    has = int(process.SIZES.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + 2 * 10**9 + process.SLACK, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def fuzzed(test):
    """The test twice: some inputs in the suite, many in the slow one."""

    def run(path, examples):
        settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))(given(st.data())(test))(
            path
        )

    run.__doc__ = test.__doc__
    return pytest.mark.parametrize("examples", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)])(run)


def places(value, here=()):
    """The path of every value inside JSON."""
    yield here
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*here, key))


def changed(data, original):
    """JSON with some of its values replaced, removed or repeated."""
    value = copy.deepcopy(original)
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from([place for place in places(value) if place]))
        parent = value
        for key in where[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()) or isinstance(parent, list):
            parent[where[-1]] = data.draw(STRANGE)
        else:
            del parent[where[-1]]
    return value


def flipped(data, content):
    """Bytes with some of them replaced, removed or doubled."""
    found = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(found) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if kind == "set":
            found[where] = data.draw(st.integers(0, 255))
        elif kind == "cut" and len(found) > 9:
            del found[where : where + data.draw(st.integers(1, 8))]
        else:
            found[where:where] = data.draw(st.binary(max_size=8))
    return bytes(found)


def replaced(data, content):
    """Bytes of Parquet with some of them replaced, mostly in its footer."""
    found = bytearray(content)
    footer = len(found) - 8 - int.from_bytes(found[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.sampled_from([0, footer, footer]))
        found[data.draw(st.integers(start, len(found) - 1))] = data.draw(st.integers(0, 255))
    return bytes(found)


def attempt(call):
    """What a call returns, or the ActstoreError it raises."""
    try:
        return call()
    except ActstoreError as error:
        return error


@fuzzed
def test_records_of_any_bytes(path, data):
    file = path.parent / "record.json"
    valid = (path / "commits" / "b00000000.json").read_bytes()
    file.write_bytes(data.draw(st.binary(max_size=200) | st.just(None)) or flipped(data, valid))
    attempt(lambda: records.load(file))


@fuzzed
def test_records_of_any_json(path, data):
    file = path.parent / "record.json"
    file.write_text(json.dumps(data.draw(JSON)))
    attempt(lambda: records.load(file))


@fuzzed
def test_headers(path, data):
    file = path.parent / "forged" / "actstore.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(records.dump(changed(data, records.load(path / "actstore.json"))))
    found = attempt(lambda: Header.load(file.parent))
    assert isinstance(found, ActstoreError) or 1 <= found.d_model <= 100_000


@fuzzed
def test_commits(path, data):
    file = path.parent / "b00000000.json"
    file.write_bytes(records.dump(changed(data, records.load(path / "commits" / "b00000000.json"))))
    found = attempt(lambda: Commit.load(file))
    assert isinstance(found, ActstoreError) or found.batches == (0,)


@fuzzed
def test_a_store_with_a_forged_commit(path, data):
    """It opens and reads, or says what is wrong."""
    file = path / "commits" / "b00000000.json"
    original = file.read_bytes()
    file.write_bytes(records.dump(changed(data, records.load(file))))
    try:
        store = attempt(lambda: actstore.open(path))
        for part in [] if isinstance(store, ActstoreError) else store.parts:
            rows = attempt(part.rows)
            if isinstance(rows, pl.DataFrame):
                prefix = rows["role"] == "prefix"  # which has keys, and no residual vectors
                attempt(lambda rows=rows, prefix=prefix, store=store: store.residual(rows.filter(~prefix), 1))
                attempt(lambda rows=rows, prefix=prefix, store=store: store.keys(rows.filter(prefix), 1))
                attempt(lambda store=store: store.attention("eoi", 1))
    finally:
        file.write_bytes(original)


@fuzzed
def test_shards_with_right_checksums(path, data):
    """Index and chunk are forged, so that only what they say can be wrong."""
    store = actstore.open(path)
    spec = store.commits[0].arrays["residual/eoi"]
    content = (store.parts[0].folder / "residual/eoi/c/0/0/0").read_bytes()
    index = np.frombuffer(content[-16 * 3 - 4 : -4], "<u8").copy()
    for where in range(data.draw(st.integers(0, 2))):
        index[data.draw(st.integers(0, 5))] = data.draw(st.integers(0, 2**64 - 1) | st.integers(0, 400)) + 0 * where
    offset, size = (int(number) for number in np.frombuffer(content[-16 * 3 - 4 : -4], "<u8")[:2])
    chunk = flipped(data, content[offset : offset + size - 4])
    chunk += google_crc32c.value(chunk).to_bytes(4, "little")
    body = content[:offset] + chunk.ljust(size, b"\0")[:size] + content[offset + size : -16 * 3 - 4]
    encoded = index.tobytes()
    file = path.parent / "shard"
    file.write_bytes(body + encoded + google_crc32c.value(encoded).to_bytes(4, "little"))
    for number in range(3):

        def read(number=number):
            with shards.opened(file, 3) as shard:
                checksum = shard.checksum(number)
                encoded = shard.read(number, checksum)
                return shard.decode(number, encoded, checksum, np.empty(spec.chunk_bytes, np.uint8))

        found = attempt(read)
        assert found is None or isinstance(found, ActstoreError)


@fuzzed
def test_sql_over_forged_tables(path, data):
    """Rows or samples of any bytes behind right checksums: SQL answers, or says what is wrong."""
    part = actstore.open(path).parts[0]
    name = data.draw(st.sampled_from(["rows.parquet", "samples.parquet"]))
    file, record = part.folder / name, making.record(path, 0)
    content, recorded = file.read_bytes(), record.read_bytes()
    forged = replaced(data, content)
    file.write_bytes(forged)
    files = {**records.load(record)["files"], name: [len(forged), f"{google_crc32c.value(forged):08x}"]}
    making.change(record, files=files)
    try:
        store = actstore.open(path, limits=actstore.Limits(seconds=20, gigabytes=1))
        for view in ("rows", "samples"):
            found = attempt(lambda view=view: store.sql(f"from {view}"))
            assert isinstance(found, ActstoreError | pl.DataFrame)
            assert "\n" not in str(found) or not isinstance(found, actstore.CorruptError)
        attempt(lambda: verify.run(verify.steps(path)))
    finally:
        file.write_bytes(content)
        record.write_bytes(recorded)


@fuzzed
def test_results_of_any_provenance(path, data):
    folder = path.parent / "results"
    folder.mkdir(exist_ok=True)
    draft = folder / "draft"
    provenance = {"measure": "count", "parameters": {}, "state": "", "created": "", "versions": {}}
    text = json.dumps(changed(data, provenance) if data.draw(st.booleans()) else data.draw(JSON))
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata({"actstore": text}), draft)
    content = draft.read_bytes()
    file = draft.rename(folder / f"count-00000000-{google_crc32c.value(content):08x}.parquet")
    found = attempt(lambda: results.load(file))
    assert isinstance(found, ActstoreError | results.Result)
    file.unlink()


@fuzzed
def test_results_of_any_bytes(path, data):
    draft = path.parent / "result"
    provenance = {"measure": "count", "parameters": {}, "state": "", "created": "", "versions": {}}
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata({"actstore": json.dumps(provenance)}), draft)
    content = replaced(data, draft.read_bytes())
    file = path.parent / f"count-00000000-{google_crc32c.value(content):08x}.parquet"
    file.write_bytes(content)
    found = attempt(lambda: results.load(file).table())
    assert isinstance(found, ActstoreError | pl.DataFrame)
    file.unlink()


@fuzzed
def test_tables_of_any_bytes(path, data):
    part = actstore.open(path).parts[0]
    file = path.parent / "rows.parquet"
    file.write_bytes(flipped(data, (part.folder / "rows.parquet").read_bytes()))
    found = attempt(lambda: tables.read_table(file, part.commit.rows))
    assert isinstance(found, ActstoreError) or found.height == part.commit.rows


def test_without_atheris_fuzzing_is_an_error():
    parsers = Path(__file__).parents[1] / "fuzz" / "parsers.py"
    program = (
        "import importlib.util, runpy; importlib.util.find_spec = lambda name: None; "
        f"runpy.run_path({str(parsers)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'actstore[fuzz]'" in done.stderr


def test_what_the_fuzzer_begins_from_is_read(tmp_path):
    """tests/fuzz/parsers.py needs atheris to make inputs up; its parsers need nothing."""
    parsers = runpy.run_path(str(Path(__file__).parents[1] / "fuzz" / "parsers.py"))
    made = parsers["parsers"](tmp_path)
    assert tuple(made) == parsers["PARSERS"]
    for parser, seeds in made.values():
        for seed in seeds:
            parser(seed)
            assert isinstance(attempt(lambda seed=seed, parser=parser: parser(seed[:-3])), ActstoreError)


@pytest.mark.slow
def test_calls_that_nobody_meant():
    """make fuzz-commands, a few of them."""
    program = [sys.executable, str(Path(__file__).parents[1] / "fuzz" / "commands.py"), "--workers", "1"]
    done = subprocess.run([*program, "--calls", "40"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "40 calls" in done.stdout
