import shutil
from contextlib import suppress

import google_crc32c
import msgspec
import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import ActstoreError
from actstore.commands import main
from actstore.errors import DamagedWarning
from actstore.format import records
from actstore.format.lens import Lens, Optics
from actstore.maintain import verify

# One file of each kind, of the second batch.
KINDS = {
    "header": "actstore.json",
    "plan": "plan.parquet",
    "vocabulary": "vocab.parquet",
    "norm": "lens/norm.bin",
    "unembedding": "lens/unembedding.bin",
    "record": "commits/b00000001.json",
    "rows": "parts/b00000001-*/rows.parquet",
    "samples": "parts/b00000001-*/samples.parquet",
    "metadata": "parts/b00000001-*/residual/eoi/zarr.json",
    "shard": "parts/b00000001-*/residual/eoi/c/0/0/0",
    "attention": "parts/b00000001-*/attention/eoi/c/0/0/0/0",
    "keys": "parts/b00000001-*/keys/image/c/0/0/0",
    "values": "parts/b00000001-*/values/image/c/0/0/0",
    "result": "results/count-*.parquet",
}
OTHER = {"record": "commits/b00000000.json", "result": "plan.parquet"} | {
    kind: pattern.replace("b00000001", "b00000000") for kind, pattern in KINDS.items() if pattern.startswith("parts")
}


def everything(path, batches, seed=0):
    """A store with a file of each kind; another seed gives files of other content."""
    norm, bias, *unembedding = np.random.default_rng(seed).standard_normal((9, 8)).astype(np.float32)
    lens = Lens(Optics("rmsnorm", 1e-5, 7), norm, bias, np.zeros(7, np.float32), np.stack(unembedding))
    plan = making.plan(batches).with_columns(pl.col("sample_id") + "x" * seed)
    options = {"run": {"model": "tiny", "seed": seed}, "vocabulary": {1: "a" + "b" * seed}}
    layout = {"layers": making.LAYERS, "d_model": making.D_MODEL, "blocks": making.BLOCKS}
    store = actstore.create(path, plan=plan, lens=lens, **layout, **options)
    for batch in range(batches):
        store.write(batch, **_of(making.kv_content(batch), seed))
    store.save_result("count", pl.DataFrame({"n": [1 + seed]}), {})
    return store.path


def _of(content, seed):
    """The content of a batch, its numbers shifted and its samples renamed."""
    tables = {name: content[name].with_columns(pl.col("sample_id") + "x" * seed) for name in ("samples", "rows")}
    kinds = ("residual", "keys", "values", "attention")
    return tables | {kind: {name: array + seed for name, array in content[kind].items()} for kind in kinds}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("stores") / "original", 3)


@pytest.fixture
def path(original, tmp_path):
    return shutil.copytree(original, tmp_path / "s")


def the(path, pattern):
    (found,) = path.glob(pattern)
    return found


def read_all(path):
    """Everything that a store gives out."""
    store = actstore.open(path)
    rows = store.sql("from rows order by row_id")
    tables = [store.sql(f"from {view} order by all") for view in ("samples", "plan", "vocab", "parts", "results")]
    results = [result.table() for result in store.results()]
    prefix = pl.col("role") == "prefix"  # which has keys and values, and no residual vectors
    vectors = [store.residual(rows.filter(~prefix), layer) for layer in store.layers]
    vectors += [read(rows.filter(prefix), block) for block in making.BLOCKS for read in (store.keys, store.values)]
    vectors += [read(rows.filter(role="image"), 1) for read in (store.keys, store.values)]
    attention = [store.attention("eoi", layer) for layer in store.layers]
    lens = store.lens
    logits = lens.logits(lens.normed(vectors[0]))
    return [store.run, rows, *tables, *results, *vectors, *attention, logits]


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, np.ndarray):
            assert_array_equal(one, other)
        elif isinstance(one, tuple):
            assert_array_equal(one.values, other.values)
        elif isinstance(one, pl.DataFrame):
            assert one.equals(other)
        else:
            assert one == other
    return True


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def lengthen(file):
    file.write_bytes(file.read_bytes() + b"\0")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def delete(file):
    file.unlink()


def link(file):
    target = file.with_name("elsewhere")
    file.rename(target)
    file.symlink_to(target)


def stale(file):
    """The file of the same kind of another store, whose model, plan and numbers are other ones."""
    (other,) = _strangers(file).glob(_pattern(file))
    content = other.read_bytes()
    assert content != file.read_bytes()
    file.write_bytes(content)


def swap(file):
    """The file and another of its kind, of the first batch, exchanged; where there is one only, that of a stranger."""
    others = [other for other in _root(file).glob(_pattern(file, "b00000000")) if other != file]
    if not others:
        stale(file)
        return
    content, other = file.read_bytes(), others[0]
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _root(file):
    return next(folder for folder in file.parents if (folder / "commits").is_dir())


def _pattern(file, batch="b00000001"):
    (kind,) = [kind for kind, pattern in KINDS.items() if file in _root(file).glob(pattern)]
    if kind == "metadata":  # that of the same role is the same
        return KINDS[kind].replace("eoi", "image")
    return KINDS[kind].replace("b00000001", batch)


def _strangers(file):
    """A store with the same kinds of files and nothing equal, made once."""
    path = _root(file).parent.parent / "stranger"
    if not path.exists():
        everything(path, 3, seed=1)
    return path


DAMAGES = [truncate, empty, lengthen, flip, delete, link, stale, swap]


def test_a_whole_store_passes(path):
    steps = verify.steps(path)
    assert verify.run(steps) == []
    # tables and lens, records as a whole, files and contents of parts, a result
    assert len(steps) == 5 + 1 + 3 * (16 + 1) + 1


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_and_never_read_as_data(path, original, kind, damage):
    file = the(path, KINDS[kind])
    damage(file)
    if kind == "header":
        if damage is link:
            return  # the header has no checksum elsewhere: a link to the same bytes is the same header
        if damage in (stale, swap):  # whole, but of no commit
            assert len(verify.run(verify.steps(path))) > 3
        else:
            with pytest.raises(ActstoreError):
                verify.steps(path)
    elif not (kind in ("record", "result") and damage in (delete, link)):
        assert verify.run(verify.steps(path)) != []
    try:
        found = read_all(path)
    except (ActstoreError, DamagedWarning):  # a damaged result is left out
        return
    if kind == "record" and damage is delete:
        assert actstore.open(path).remaining == [1]  # the batch is no longer there, and will be written again
    elif kind == "result" and damage is delete:
        assert actstore.open(path).results() == []
    else:
        assert same(found, read_all(original))


@pytest.mark.parametrize("kind", OTHER)
def test_files_that_changed_places_are_found(path, original, kind):
    """Of equal size, as two shards of the same shape may be."""
    one, other = the(path, KINDS[kind]), the(path, OTHER[kind])
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    if kind != "result":
        other.write_bytes(content)
    if one.read_bytes() == content:
        return
    assert verify.run(verify.steps(path)) != []
    with pytest.raises((ActstoreError, DamagedWarning)):
        read_all(path)


def test_shards_of_one_size_that_changed_places_are_not_read(path, tmp_path):
    """Whole shards, each intact, of equal size: only the committed checksums of their chunks tell them apart."""
    stores = []
    for number, name in enumerate(("one", "other")):
        store = making.create(tmp_path / name, 1)
        batch = making.content(0)
        batch["residual"] = {
            role: np.random.default_rng(number).standard_normal(array.shape, np.float32)
            for role, array in batch["residual"].items()
        }
        store.write(0, **batch)
        stores.append(actstore.open(store.path))
    mine, stale = [store.parts[0].folder / "residual/image/c/0/0/0" for store in stores]
    assert mine.stat().st_size == stale.stat().st_size
    assert mine.read_bytes() != stale.read_bytes()
    shutil.copy(stale, mine)
    assert zarr.open_array(mine.parents[3], mode="r")[0].shape == (6, 8)  # plain Zarr has nothing to object
    rows = stores[0].sql("from rows where role = 'image'")
    with pytest.raises(actstore.CorruptError, match=r"c/0/0/0: chunk 0 differs from what was committed \(crc32c\)"):
        actstore.open(stores[0].path).residual(rows, 0)


def _edit_index(file, change):
    """Change the entries (offset, size) of a shard's index and make the index' own checksum anew."""
    content = bytearray(file.read_bytes())
    start = len(content) - 4 - 3 * 16
    entries = np.frombuffer(content, "<u8", count=6, offset=start).reshape(3, 2).copy()
    content[start:-4] = change(entries).tobytes()
    content[-4:] = google_crc32c.value(bytes(content[start:-4])).to_bytes(4, "little")
    file.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[[1, 0, 2]],
        lambda entries: np.full_like(entries, 2**64 - 1),
        lambda entries: entries * 0,
        lambda entries: entries + 1,
        lambda entries: entries + np.array([[2**63, 0]], np.uint64),
    ],
    ids=["exchanged", "absent", "empty", "shifted", "far away"],
)
def test_an_index_that_was_changed_with_care_is_not_followed(path, change):
    file = the(path, KINDS["shard"])
    size = file.stat().st_size
    _edit_index(file, change)
    assert file.stat().st_size == size
    with pytest.raises(actstore.CorruptError, match=r"c/0/0/0: (chunk 0 differs|cannot be read)"):
        actstore.open(path).residual([(1 << 32) + 1], 0)


@pytest.mark.parametrize("damage", [truncate, empty, lengthen])
@pytest.mark.parametrize("kind", ["rows", "samples", "metadata", "shard", "attention"])
def test_a_part_of_another_size_is_noticed_at_opening(path, kind, damage):
    damage(the(path, KINDS[kind]))
    with pytest.raises(actstore.CorruptError, match=r"\d+ bytes, \d+ were committed; run actstore verify"):
        actstore.open(path)


@pytest.mark.parametrize("kind", ["residual/eoi", "attention/eoi"])
def test_a_chunk_that_is_lost_is_never_zeros(path, kind):
    """Plain Zarr reads a shard that is not there as NaN; actstore refuses."""
    folder = the(path, f"parts/b00000001-*/{kind}")
    shutil.rmtree(folder / "c")
    assert len(making.files(folder)) == 1
    lost = zarr.open_array(folder, mode="r")[...]
    bits = lost if lost.dtype == np.uint16 else lost.view(np.uint16)
    assert set(np.unique(bits)) == {0x7FC0 if kind == "residual/eoi" else 0x7E00}
    with pytest.raises(actstore.CorruptError, match="committed, but missing"):
        actstore.open(path)


def test_what_is_lost_after_opening(path):
    store = actstore.open(path)
    shutil.rmtree(store.parts[1].folder / "residual/eoi/c")
    with pytest.raises(actstore.CorruptError, match="c/0/0/0: committed, but missing; run actstore repair, or restore"):
        store.residual([(1 << 32) + 1], 0)


def test_an_extra_file_in_a_part(path):
    (the(path, "parts/b00000001-*") / "notes.txt").write_text("mine")
    (problem,) = verify.run(verify.steps(path))
    assert "notes.txt: not in the commit record; remove it" in problem.problem
    assert problem.batches == (1,)


def test_a_stranger_among_results(path):
    (path / "results" / "notes.txt").write_text("mine")
    (problem,) = verify.run(verify.steps(path))
    assert problem.file == "results/notes.txt"


def foreign(file):
    """The index of a store with other numbers."""
    file.write_bytes(actstore.open(_strangers(file)).write_index().read_bytes())


@pytest.mark.parametrize("damage", [truncate, empty, lengthen, flip, delete, link, foreign])
def test_an_index_is_never_read(path, original, damage):
    file = actstore.open(path).write_index()
    damage(file)
    assert same(read_all(path), read_all(original))


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    path = everything(tmp_path_factory.mktemp("flips") / "s", 1)
    return path, read_all(path)


@pytest.mark.parametrize("flips", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_any_flipped_bit_is_found(target, flips):
    @given(st.data())
    @settings(max_examples=flips, deadline=None)
    def flipped(data):
        _flip(*target, data)

    flipped()


def _flip(path, truth, data):
    file = data.draw(st.sampled_from(making.files(path)))
    content = file.read_bytes()
    where, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    file.write_bytes(content[:where] + bytes([content[where] ^ 1 << bit]) + content[where + 1 :])
    try:
        _flip_is_found(path, truth)
    finally:
        file.write_bytes(content)


def _flip_is_found(path, truth):
    with suppress(ActstoreError):  # the header itself
        assert verify.run(verify.steps(path)) != []
    try:
        found = read_all(path)
    except (ActstoreError, DamagedWarning):  # a damaged result is left out
        return
    assert same(found, truth)  # a file that reading has no need of, such as zarr.json


def test_a_plan_whose_columns_were_renamed_is_found_and_reported(path):
    plan = path / "plan.parquet"
    plan.write_bytes(plan.read_bytes().replace(b"sample_id", b"sample_ie"))
    found = verify.run(verify.steps(path))
    assert [problem.file for problem in found][:1] == ["plan.parquet"]
    assert verify.report(path, found)["file"].to_list() == [problem.file for problem in found]


def _rewritten(path, change):
    """The store with the second part's rows or samples changed and committed as if they were meant so."""
    store = actstore.open(path)
    part = store.parts[1]
    change(part)
    commit = part.commit
    files = {name: making.File.of(part.folder / name) for name in commit.files}
    making.record(path, 1).write_bytes(records.dump(msgspec.structs.replace(commit, files=files).record()))


def _write(part, name, frame):
    making.write_table(part.folder / name, frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: _write(part, "rows.parquet", part.rows().reverse()), "row ids are not ascending"),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(pl.col("row_id") + (1 << 32))),
            "row ids of another batch",
        ),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(pl.col("place") + 1)),
            "lies outside the array of its role",
        ),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(place=pl.lit(0, pl.Int32))),
            "do not match the vectors",
        ),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(sample_id=pl.lit("x"))),
            "rows of a sample that the part does not hold",
        ),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(role=pl.lit("last"))),
            "lies outside the array of its role",
        ),
        (lambda part: _write(part, "rows.parquet", part.rows()[1:]), "14 rows, 15 were committed"),
        (lambda part: _write(part, "rows.parquet", part.rows().drop("k")), "its columns are not those of format 1"),
        (
            lambda part: _write(part, "samples.parquet", part.samples().with_columns(sample_id=pl.lit("x"))),
            "its samples are not those of the plan",
        ),
    ],
)
def test_tables_that_contradict_each_other(path, change, message):
    _rewritten(path, change)
    problems = verify.run(verify.steps(path))
    assert any(message in problem.problem for problem in problems)


def test_the_report_names_files_and_samples(path):
    flip(the(path, KINDS["shard"]))
    report = verify.report(path, verify.run(verify.steps(path)))
    assert report.columns == ["file", "problem", "samples", "first_sample"]
    file, problem, samples, first = report.row(0)
    assert file.endswith("residual/eoi/c/0/0/0")
    assert "its bytes differ from the committed ones (crc32c)" in problem
    assert (samples, first) == (4, "b1s0")


def test_every_sample_that_is_touched_is_listed(path, capsys):
    shard = the(path, KINDS["shard"])
    flip(shard)
    assert main.run(["verify", str(path), "--samples", "--format", "csv"]) == 1
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "file,batch,sample_id,condition"
    name = str(shard.relative_to(path))
    assert [line for line in lines if name in line] == [f"{name},1,b1s{sample},none" for sample in range(4)]


def test_the_report_without_a_plan(path):
    flip(path / "plan.parquet")
    report = verify.report(path, verify.run(verify.steps(path)))
    assert report["file"][0] == "plan.parquet"


@pytest.mark.parametrize("kind", ["rows", "samples", "metadata", "shard", "plan", "vocabulary"])
def test_links_are_refused(path, kind):
    link(the(path, KINDS[kind]))
    with pytest.raises(actstore.CorruptError, match="not a plain file; a store holds no links"):
        read_all(path)
