"""Stores of strangers: links, pipes, bombs and promises, each refused with its name before it does harm.

What is forged here carries right checksums; what is merely damaged is the business of test_damage.py.
"""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import actstore
import making
from actstore import ActstoreError, CorruptError, limits
from actstore.commands import main
from actstore.errors import DamagedWarning
from actstore.format import layout, records, results, shards, tables
from actstore.format.commits import File
from actstore.maintain import orphans, verify

OPENERS = {"open": actstore.open, "verify": verify.steps, "gc": orphans.find}


@pytest.fixture
def store(tmp_path):
    made = making.store(tmp_path / "s", 2)
    made.save_result("count", pl.DataFrame({"n": [1]}), {})
    return made


def moved(path):
    """Put a file or folder elsewhere and a link to it in its place."""
    elsewhere = Path(f"{path}-elsewhere")
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def forged(store, name, content):
    """Put content in the place of a file of the first part, and its size and checksum into the record."""
    part = store.parts[0]
    (part.folder / name).write_bytes(content)
    path = making.record(store.path, 0)
    found = File.of(part.folder / name)
    making.change(path, files={**records.load(path)["files"], name: [found.size, found.crc32c]})


# Links and pipes


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", ["parts", "commits", "results"])
def test_a_folder_of_the_store_that_is_a_link(store, name, opener):
    moved(store.path / name)
    with pytest.raises(CorruptError, match=f"{name}: not a plain folder; a store holds no links"):
        OPENERS[opener](store.path)


def test_a_part_that_is_a_link(store):
    moved(store.parts[0].folder)
    with pytest.raises(CorruptError, match="not a plain folder; a store holds no links"):
        actstore.open(store.path)


@pytest.mark.parametrize("below", ["residual", "residual/eoi", "residual/eoi/c/0", "attention"])
def test_a_folder_of_a_part_that_is_a_link(store, below):
    rows = store.sql("from rows where role = 'eoi'")
    moved(store.parts[0].folder / below)
    opened = actstore.open(store.path)
    for reading in (
        lambda: opened.residual(rows, store.layers[0]),
        lambda: opened.commits[0].check(store.path),
    ):
        with pytest.raises(CorruptError, match=f"{below}: not a plain folder; a store holds no links"):
            reading()
    problems = verify.run(verify.steps(store.path))
    assert any(f"{below}: not a plain folder; a store holds no links" in problem.problem for problem in problems)


@pytest.mark.parametrize("name", ["actstore.json", "commits/b00000001.json"])
def test_a_record_that_is_a_link_or_a_pipe(store, name):
    path = store.path / name
    moved(path)
    with pytest.raises(CorruptError, match="not a plain file; a store holds no links"):
        actstore.open(store.path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptError, match="not a plain file; a store holds no links"):
        actstore.open(store.path)  # and does not wait for someone to write into it


def descriptors():
    """How many files this process has open; 0 where the system does not say."""
    known = Path("/proc/self/fd")
    return len(list(known.iterdir())) if known.is_dir() else 0


@pytest.mark.parametrize("instead", [os.mkfifo, os.mkdir])
def test_whichever_file_is_a_pipe_or_a_folder_is_named_and_not_waited_for(store, instead):
    part = next((store.path / "parts").iterdir())
    checked = [*part.rglob("*.*"), part / "residual/eoi/c/0/0/0", *(store.path / "commits").iterdir()]
    checked += [one for one in store.path.iterdir() if one.is_file() and one.name != "actstore.json"]
    is_open = descriptors()
    for path in filter(Path.is_file, checked):
        content = path.read_bytes()
        path.unlink()
        instead(path)
        problems = verify.run(verify.steps(store.path))
        assert any(path.name in one.problem and "not a plain file" in one.problem for one in problems), path
        path.unlink() if instead is os.mkfifo else path.rmdir()
        path.write_bytes(content)
    assert verify.run(verify.steps(store.path)) == []
    assert descriptors() <= is_open


def test_a_chunk_that_is_a_pipe_is_not_waited_for(store):
    rows = store.sql("from rows where role = 'eoi'")
    path = store.parts[0].folder / "residual/eoi/c/0/0/0"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptError, match="not a plain file; a store holds no links"):
        store.residual(rows, 1)


def test_a_record_of_any_size(store):
    with making.record(store.path, 1).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(CorruptError, match="1099511627776 bytes; a record has at most 67108864"):
        actstore.open(store.path)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_result_that_is_no_plain_file(store, kind):
    (result,) = store.results()
    moved(result.path)
    if kind == "pipe":
        result.path.unlink()
        os.mkfifo(result.path)
    with pytest.warns(DamagedWarning, match="not a plain file; a store holds no links"):
        assert results.load_all(store.path) == []


def test_gc_follows_no_link(store, tmp_path):
    mine = tmp_path / "mine"
    (mine / "b00000000-0badcafe").mkdir(parents=True)
    shutil.rmtree(store.path / "parts")
    (store.path / "parts").symlink_to(mine)
    with pytest.raises(CorruptError):
        orphans.find(store.path, older_than=0)
    assert (mine / "b00000000-0badcafe").exists()


# Records that promise what is not there


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": 8}, "holds 8 rows and 4 samples, which is not what its arrays hold"),
        ({"rows": 10**18}, "which is not what its arrays hold"),
        ({"samples": 5}, "holds 9 rows and 5 samples, which is not what its arrays hold"),
    ],
)
def test_numbers_of_rows_that_contradict_the_arrays(store, fields, message):
    making.change(making.record(store.path, 0), **fields)
    with pytest.raises(CorruptError, match=message):
        actstore.open(store.path)


@pytest.mark.parametrize(
    ("shape", "dimensions", "message"),
    [
        ([3, 10**12, 8], ["layer", "row", "feature"], "not a layout of format 1"),  # no checksums for so many chunks
        ([3, 3, 10**12], ["layer", "row", "feature"], "a chunk holds 2147483631"),
        ([3, 10**400, 8], ["layer", "row", "feature"], "not a layout of format 1"),
        ([3, 3, 9], ["layer", "row", "feature"], "has not the layers, width or dtype"),
        ([2, 3, 8], ["layer", "row", "feature"], "has not the layers, width or dtype"),
        ([3, 3, 8], ["layer", "row", "colour"], "has other axes than format 1 gives it"),
        ([3, 3, 8, 1], ["layer", "row", "feature"], "has other axes than format 1 gives it"),
        ([3, 3], ["layer", "row"], "has other axes than format 1 gives it"),
    ],
)
def test_shapes_that_are_not_those_of_the_store(store, shape, dimensions, message):
    path = making.record(store.path, 0)
    arrays = records.load(path)["arrays"]
    try:
        spec = layout.ArraySpec.of(shape, "bfloat16", tuple(dimensions)).record()
    except (ActstoreError, OverflowError):
        spec = {**arrays["residual/eoi"], "shape": shape}
    n_chunks = min(shape[0] * (spec["shards"][1] // spec["chunks"][1]), 100)
    arrays["residual/eoi"] = {**spec, "chunk_crc32c": "00000000" * n_chunks}
    making.change(path, arrays=arrays)
    with pytest.raises(CorruptError, match=message):
        actstore.open(store.path)


@pytest.mark.parametrize("width", [0, 100_001, 10**15])
def test_a_width_that_no_vector_has(store, width):
    capture = {"layers": [0, 1, 2], "d_model": width, "dtype": "bfloat16"}
    making.change(store.path / "actstore.json", capture=capture)
    with pytest.raises(CorruptError, match="not a header of format 1"):
        actstore.open(store.path)
    with pytest.raises(ActstoreError, match="is not a width between 1 and 100000"):
        actstore.create(store.path.parent / "t", plan=making.plan(), layers=[0], d_model=width)


# Tables and run cards of other columns, behind right checksums


def headed(store, **fields):
    """Change the header, and name it in the records as if they had been committed to it."""
    making.change(store.path / "actstore.json", **fields)
    crc = records.load(store.path / "actstore.json")["crc32c"]
    for record in (store.path / "commits").iterdir():
        making.change(record, store=crc)


def tabled(store, name, frame):
    """Put a table in the place of one that the header lists."""
    pq.write_table(frame.to_arrow(), store.path / name)
    found = File.of(store.path / name)
    files = records.load(store.path / "actstore.json")["files"]
    headed(store, files={**files, name: [found.size, found.crc32c]})


PLANS = {
    "no batch": lambda plan: plan.drop("batch"),
    "no sample_id": lambda plan: plan.drop("sample_id"),
    "a text for a batch": lambda plan: plan.with_columns(pl.col("batch").cast(pl.String)),
    "nested": lambda plan: plan.with_columns(batch=pl.struct("batch")),
    "a column of the store": lambda plan: plan.with_columns(row_id=pl.lit(3)),
    "capital letters": lambda plan: plan.with_columns(Label=pl.lit("x")),
}


@pytest.mark.parametrize("change", PLANS.values(), ids=PLANS)
def test_a_plan_of_other_columns(store, change, capsys):
    tabled(store, "plan.parquet", change(store.plan))
    opened = actstore.open(store.path)
    for ask in (lambda: opened.plan, lambda: opened.sql("from rows"), lambda: opened.n_batches):
        with pytest.raises(CorruptError, match=r"plan\.parquet: its columns are not those of format 1"):
            ask()
    for command in ("info", "verify"):
        assert main.run([command, str(store.path)]) == 1
        assert "plan.parquet: its columns are not those of format 1" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.with_columns(batch=pl.lit(None, pl.Int32)), "has a NULL in batch"),
        (lambda plan: plan.head(0), "is empty"),
        (lambda plan: pl.concat([plan, plan]), "is in the plan twice"),
    ],
)
def test_a_plan_that_nobody_could_have_made(store, change, message):
    tabled(store, "plan.parquet", change(store.plan))
    with pytest.raises(CorruptError, match=message):
        actstore.open(store.path).plan  # noqa: B018
    assert message in verify.run(verify.steps(store.path))[0].problem


def test_a_vocabulary_of_other_columns(store):
    tabled(store, "vocab.parquet", pl.DataFrame({"x": [1]}))
    opened = actstore.open(store.path)
    for ask in (lambda: opened.vocabulary, lambda: opened.sql("from vocab")):
        with pytest.raises(CorruptError, match=r"vocab\.parquet: its columns are not those of format 1, but x"):
            ask()
    assert [problem.file for problem in verify.run(verify.steps(store.path))] == ["vocab.parquet"]


@pytest.mark.parametrize("run", [{"": 1}, {"Model": 1, "model": 2}, {"a\0b": 1}])
def test_a_run_card_that_is_no_view(store, run, tmp_path):
    headed(store, run=run)
    with pytest.raises(CorruptError, match="the run card (has a member called|names 'model' twice)"):
        actstore.open(store.path)
    with pytest.raises(ActstoreError, match="^the run card (has a member called|names 'model' twice)"):
        making.create(tmp_path / "t", run=run)


# Bombs


def bomb(rows, text):
    """A Parquet table that says one text many times, in a few bytes."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"sample_id": column}).cast(pa.schema({"sample_id": pa.string()})), sink, compression="zstd"
    )
    return sink.getvalue().to_pybytes()


def test_metadata_that_are_no_text(tmp_path):
    path = tmp_path / "plan.parquet"
    metadata = {b"\xff": b"\xff"}
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata(metadata), path)
    assert tables.read_table(path).rows() == [(1,)]


def test_a_table_of_other_height_is_not_read(store):
    forged(store, "rows.parquet", bomb(10**6, "x"))
    with pytest.raises(CorruptError, match=r"rows\.parquet: 1000000 rows, 9 were committed"):
        actstore.open(store.path).parts[0].rows()


def test_a_table_that_does_not_fit_into_memory_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "plan.parquet"
    path.write_bytes(bomb(200_000, "x" * 100))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(limits, "MACHINE_BYTES", 10**6)
    with pytest.raises(ActstoreError, match=r"plan\.parquet: its content would take .* GB of memory"):
        tables.read_table(path)


@pytest.mark.slow
def test_reading_a_bomb_stays_within_some_megabytes(tmp_path):
    """20 kB that stand for 20 GB: refused after a piece, in a process that may have 4 GB."""
    path = tmp_path / "plan.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000_000, np.int32)), pa.array(["x" * 10_000]))
    with pq.ParquetWriter(path, pa.schema({"sample_id": column.type}), store_schema=False) as writer:
        writer.write_table(pa.table({"sample_id": column}))
    assert path.stat().st_size < 100_000
    program = f"""
import resource
from pathlib import Path
from actstore import limits
from actstore.format import tables
from actstore.errors import ActstoreError
limits.MACHINE_BYTES = 10**9
resource.setrlimit(resource.RLIMIT_AS, (4 * 10**9, 4 * 10**9))
try:
    tables.read_table(Path({str(path)!r}))
except ActstoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "its content would take 1 GB of memory" in done.stdout, done.stderr[-500:]


def test_a_chunk_that_says_it_is_larger(store):
    """Its checksum is right and so is the record: the size that blosc states is compared before memory is given."""
    name = "residual/eoi/c/0/0/0"
    shard = store.parts[0].folder / name
    content = bytearray(shard.read_bytes())
    content[4:8] = (2**31 - 17).to_bytes(4, "little")
    path = making.record(store.path, 0)
    spec = store.commits[0].arrays["residual/eoi"]
    places = np.frombuffer(bytes(content[-16 * spec.chunks_per_shard - 4 : -4]), "<u8").reshape(-1, 2)
    offset, size = (int(number) for number in places[0])
    crc = google_crc32c.value(bytes(content[offset : offset + size - 4]))
    content[offset + size - 4 : offset + size] = crc.to_bytes(4, "little")
    forged(store, name, bytes(content))
    arrays = records.load(path)["arrays"]
    arrays["residual/eoi"]["chunk_crc32c"] = f"{crc:08x}" + spec.chunk_crc32c[8:]
    making.change(path, arrays=arrays)
    opened = actstore.open(store.path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptError, match="chunk 0 differs from what was committed"):
        opened.residual(opened.sql("from rows where role = 'eoi' and row_id < 100"), 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_sql_over_a_bomb_stays_within_its_limits(store):
    """20 kB that stand for 2 GB of text, behind a right checksum: DuckDB streams it, in the memory it may have."""
    texts = [f"{number:02}" + "x" * 10_000 for number in range(50)]
    column = pa.DictionaryArray.from_arrays(pa.array(np.arange(200_000, dtype=np.int32) % 50), pa.array(texts))
    part = store.parts[0]
    schema = part.rows().to_arrow().schema
    table = pa.table({field.name: pa.nulls(200_000, field.type) for field in schema} | {"sample_id": column})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    forged(store, "rows.parquet", sink.getvalue().to_pybytes())
    opened = actstore.open(store.path, limits=limits.Limits(seconds=60, gigabytes=0.3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert opened.sql("select count(*) n from rows").item() == 200_009
    with pytest.raises(actstore.QueryError, match="larger than|more than"):
        opened.sql("select sample_id, random() from rows")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # kB


@pytest.mark.parametrize("missing", [1, 3, 40])
def test_a_chunk_that_says_it_is_longer_than_it_is(store, tmp_path, missing):
    """blosc would read what lies in memory behind it, and return that as vectors."""
    name = "residual/eoi/c/0/0/0"
    spec = store.commits[0].arrays["residual/eoi"]
    with shards.opened(store.parts[0].folder / name, spec.chunks_per_shard) as shard:
        chunks = [shard.read(layer, spec.checksum(layer, 0)) for layer in range(3)]
    chunks[0] = chunks[0][:-missing]
    shards.write(tmp_path / "forged" / "shard", chunks, spec.chunks_per_shard)
    forged(store, name, (tmp_path / "forged" / "shard").read_bytes())
    path = making.record(store.path, 0)
    arrays = records.load(path)["arrays"]
    arrays["residual/eoi"]["chunk_crc32c"] = f"{google_crc32c.value(chunks[0]):08x}" + spec.chunk_crc32c[8:]
    making.change(path, arrays=arrays)
    with pytest.raises(CorruptError, match="chunk 0 differs from what was committed"):
        actstore.open(store.path).residual([1], 0)


# Codecs and number types off the list


def test_what_zarr_json_says_is_not_followed(store):
    """An array of pickled objects, as Zarr's second format had them: the record says what there is."""
    expected = store.residual([1], 1)
    evil = b'{"zarr_format":2,"shape":[1],"chunks":[1],"dtype":"|O","filters":[{"id":"pickle"}],"compressor":null}'
    forged(store, "residual/eoi/zarr.json", evil)
    np.testing.assert_array_equal(actstore.open(store.path).residual([1], 1), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "|O"},
        {"dtype": "object"},
        {"dtype": "float64"},
        {"dtype": ["bfloat16"]},
        {"codecs": ["pickle"]},
        {"chunks": [3, 3, 8]},
        {"shards": [1, 3, 8]},
        {"chunk_crc32c": "0" * 23},
        {"chunk_crc32c": "g" * 24},
    ],
)
def test_arrays_that_format_1_does_not_know(store, change):
    path = making.record(store.path, 0)
    arrays = records.load(path)["arrays"]
    making.change(path, arrays={**arrays, "residual/eoi": {**arrays["residual/eoi"], **change}})
    with pytest.raises(CorruptError, match=r"array residual/eoi: (not a layout of format 1|Expected|Object)"):
        actstore.open(store.path)
