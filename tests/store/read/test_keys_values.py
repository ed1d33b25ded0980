"""Keys and values in the store: written, read, merged, exported, and what is wrong with them said."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file

import actstore
import making
from actstore import ActstoreError, CorruptError
from actstore.commands import info, main
from actstore.commands.export import export
from actstore.format import layout, records
from actstore.format.names import DTYPES
from actstore.maintain import compaction, verify

GOLDEN = Path(__file__).parents[2] / "golden" / "store-1-kv.tar.xz"  # made once by making.golden_kv
KINDS = ("keys", "values")
HELD = "select * from rows where role in ('image', 'prefix')"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.kv_store(tmp_path_factory.mktemp("stores") / "s")


@pytest.fixture
def copy(store, tmp_path):
    return shutil.copytree(store.path, tmp_path / "s")


def read(store, kind):
    return {"keys": store.keys, "values": store.values}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["row_id", "row_id desc", "hash(row_id)", "role, hash(row_id)"])
@pytest.mark.parametrize("where", ["true", "batch = 1", "role = 'prefix'", "row_id % 7 = 1", "false"])
def test_vectors_come_in_the_order_of_the_query(store, kind, order, where):
    rows = store.sql(f"select r.*, row_id >> 32 as batch from ({HELD}) r where {where} order by {order}")
    for block in making.BLOCKS:
        found = read(store, kind)(rows, block=block)
        assert found.dtype == np.float32
        assert_array_equal(found, making.kv_expected(rows, block, kind))


def test_a_store_says_what_it_holds(store):
    assert (store.blocks, store.kv, store.roles) == ((0, 1), ["image", "prefix"], ["eoi", "image"])
    assert store.sql("select blocks from run").item().to_list() == [0, 1]
    assert "blocks   0, 1: keys and values of image, prefix\n" in info.summary(store)
    held = info.roles(store).drop("bytes").rows()
    assert [row for row in held if row[0] != "residual"] == [
        *((kind, role, 18) for kind in KINDS for role in ("image", "prefix")),
        ("attention", "eoi", 12),
    ]


def test_a_store_without_them_has_none(tmp_path):
    plain = making.store(tmp_path / "s", 1)
    assert (plain.blocks, plain.kv) == ((), [])
    assert b"blocks" not in (plain.path / "actstore.json").read_bytes()
    with pytest.raises(ActstoreError, match="keys and values of block 0 are not in this store; it has none"):
        plain.keys([0], block=0)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.keys(s.sql("from rows where role = 'eoi'"), 0), r"role 'eoi' has no keys: .* in \[capture\] kv"),
        (lambda s: s.values(s.sql("from rows where role = 'eoi'"), 0), "role 'eoi' has no values"),
        (lambda s: s.residual(s.sql("from rows where role = 'prefix'"), 0), "role 'prefix' has no residual vectors"),
        (lambda s: s.sql("select residual(row_id, 0) from rows where role = 'prefix'"), "'prefix' has no residual"),
        (lambda s: s.keys([0], 2), "keys and values of block 2 are not in this store; it has those of blocks 0, 1"),
        (lambda s: s.keys([7 << 32], 0), "row_id 30064771072 is not in this store"),
        (lambda s: s.values(pl.DataFrame({"label": ["cat"]}), 0), "no column row_id"),
    ],
)
def test_a_question_without_an_answer(store, ask, message):
    with pytest.raises(ActstoreError, match=message):
        ask(store)


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 20), st.integers(1, 12), st.integers(1, 12))
HELD_BY = st.lists(st.sampled_from(["residual", "kv", "all"]), min_size=1, max_size=3)


@given(SHAPES, HELD_BY, st.sampled_from(sorted(DTYPES)), st.integers(0, 2**32 - 1), st.sampled_from([2**20, 64]))
@settings(max_examples=15, deadline=None)
def test_round_trip(tmp_path_factory, shape, held, dtype, seed, chunk_bytes):
    """Any shape and number type; roles with residual vectors, with keys and values, or with all."""
    n_layers, n_blocks, n_rows, d_model, width = shape
    random, kind = np.random.default_rng(seed), DTYPES[dtype]
    path = tmp_path_factory.mktemp("round") / "s"
    roles = {f"r{i}": what for i, what in enumerate(held)}
    firsts = {"residual": (n_layers, d_model), "keys": (n_blocks, width), "values": (n_blocks, width + 1)}
    given_to = {
        name: {
            role: random.standard_normal((n_first, n_rows, wide), np.float32)
            for role, what in roles.items()
            if what == "all" or (what == "residual") == (name == "residual")
        }
        for name, (n_first, wide) in firsts.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actstore.format.layout.CHUNK_BYTES", chunk_bytes)
        patch.setattr("actstore.format.layout.SHARD_BYTES", 8 * chunk_bytes)
        patch.setattr("actstore.format.layout._layout_of", layout._layout_of.__wrapped__)  # not the cached one
        plan = pl.DataFrame({"sample_id": ["a"]})
        options = {"layers": range(n_layers), "blocks": range(5, 5 + n_blocks), "d_model": d_model, "dtype": dtype}
        new = actstore.create(path, plan=plan, **options)
        rows = pl.DataFrame({"sample_id": "a", "role": random.permutation(np.repeat(list(roles), n_rows)).tolist()})
        new.write(0, samples=plan, rows=rows, **given_to)
        made = actstore.open(path)
        known = made.sql("select row_id, role, place from rows order by hash(row_id + 1)")
        for name, arrays in given_to.items():
            own = known.filter(pl.col("role").is_in(list(arrays)))
            for index in range(firsts[name][0]):
                expected = np.array([arrays[role][index, place] for _, role, place in own.rows()])
                found = made.residual(own, index) if name == "residual" else read(made, name)(own, block=5 + index)
                assert_array_equal(found, kind.decode(kind.encode(expected)).reshape(found.shape))
            for role, values in arrays.items():
                plain = zarr.open_array(made.parts[0].folder / name / role, mode="r")
                assert_array_equal(kind.decode(plain[...]), kind.decode(kind.encode(values)))
        assert verify.run(verify.steps(path)) == []
    shutil.rmtree(path)


def write(tmp_path, **changes):
    making.create(tmp_path / "s", 1, blocks=making.BLOCKS).write(0, **{**making.kv_content(0), **changes})


def kv(**changes):
    """Keys of a batch, changed; a role that is None is left out."""
    found = {role: making.kv(0, role, "keys") for role in making.KV_PER_SAMPLE} | changes
    return {role: array for role, array in found.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": kv(image=None)}, "role 'image' has keys or values, but not both"),
        ({"values": {}}, "role 'image' has keys or values, but not both"),
        ({"keys": {}, "values": {}}, r"rows of roles \['eoi', 'image', 'prefix'\], but vectors of roles"),
        ({"keys": kv(eol=np.zeros((2, 1, 6))), "values": kv(eol=np.zeros((2, 1, 6)))}, "but vectors of roles"),
        ({"keys": kv(image=np.zeros((2, 5, 6)))}, r"keys of role 'image' have shape \(2, 5, 6\); expected \(2, 6, 6\)"),
        ({"keys": kv(image=np.zeros((3, 6, 6)))}, r"keys of role 'image' have shape \(3, 6, 6\); expected \(2, 6, 6\)"),
        ({"values": kv(prefix=np.zeros((2, 6, 7)))}, r"values of role 'prefix' have shape \(2, 6, 7\); expected"),
        ({"keys": kv(image=np.zeros((2, 6, 0)))}, r"an array of shape \(2, 6, 0\); none is empty"),
        (
            {"keys": kv(image=np.full((2, 6, 6), np.nan))},
            "sample 'b0s0', role 'image', keys of block 0: a value is not finite in bfloat16",
        ),
        ({"values": kv(image=np.ones((2, 6, 6), np.int32))}, "an array of int32: give floats"),
    ],
)
def test_what_is_not_written(tmp_path, changes, message):
    with pytest.raises(ActstoreError, match=message):
        write(tmp_path, **changes)
    assert actstore.open(tmp_path / "s").remaining == [0]
    assert list((tmp_path / "s" / "parts").iterdir()) == []


def test_a_store_made_without_blocks_takes_none(tmp_path):
    with pytest.raises(ActstoreError, match="this store keeps no keys and values: create it with blocks="):
        making.create(tmp_path / "s", 1).write(0, **making.kv_content(0))


@pytest.mark.parametrize("blocks", [[1, 0], [0, 0], [-1, 0]])
def test_blocks_that_are_none(tmp_path, blocks):
    with pytest.raises(ActstoreError, match=r"blocks .* are not ascending blocks 0\.\.L-1"):
        making.create(tmp_path / "s", 1, blocks=blocks)


# Compaction


def everything(store):
    rows = store.sql(f"from ({HELD}) order by row_id")
    return [read(store, kind)(rows, block=block) for kind in KINDS for block in making.BLOCKS]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_merged_parts_hold_the_same(tmp_path, dtype):
    before = making.kv_store(tmp_path / "s", 3, dtype)
    (done,) = compaction.compact(before.path)
    after = actstore.open(before.path)
    assert [part.commit.name for part in after.parts] == [done.name]
    assert done.rows == 3 * 15
    for one, other in zip(everything(before), everything(after), strict=True):
        assert_array_equal(one, other)
    rows = after.sql("from rows where role = 'image' order by hash(row_id)")
    assert_array_equal(after.residual(rows, 1), before.residual(rows, 1))
    assert verify.run(verify.steps(after.path)) == []


def test_parts_that_keep_other_things_of_a_role_are_left_apart(tmp_path):
    """With keys or without, with residual vectors or without, of one width or another."""
    store = making.create(tmp_path / "s", 8, blocks=making.BLOCKS)
    for batch in range(8):
        content = making.kv_content(batch)
        if batch // 2 == 1:
            content = making.content(batch)
        if batch // 2 == 2:
            content["residual"] = {"eoi": content["residual"]["eoi"]}
        if batch // 2 == 3:
            content |= {kind: {role: x[..., :4] for role, x in content[kind].items()} for kind in KINDS}
        store.write(batch, **content)
    store = actstore.open(store.path)
    with pytest.raises(ActstoreError, match=r"keys of widths \[4, 6\] in different parts"):
        store.keys([0], block=0)
    assert [one.batches for one in compaction.compact(store.path)] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    after = actstore.open(store.path)
    assert_array_equal(after.parts[3].array("values/image").layer(1)[:6], making.kv(6, "image", "values")[1, :, :4])
    assert verify.run(verify.steps(after.path)) == []


# Damage


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [3, -1])
def test_a_flipped_bit_is_found_and_never_data(copy, kind, where):
    (file,) = copy.glob(f"parts/b00000001-*/{kind}/prefix/c/0/0/0")
    content = bytearray(file.read_bytes())
    content[where] ^= 4
    file.write_bytes(bytes(content))
    (problem,) = {one.file.split("-")[0]: one for one in verify.run(verify.steps(copy))}.values()
    assert problem.batches == (1,)
    store = actstore.open(copy)
    rows = store.sql("from rows where role = 'prefix' and sample_id like 'b1%'")
    with pytest.raises(CorruptError, match="differs from what was committed"):
        read(store, kind)(rows, block=0)
    other = ({*KINDS} - {kind}).pop()
    assert_array_equal(read(store, other)(rows, block=0), making.kv_expected(rows, 0, other))


def test_swapped_arrays_are_found_and_never_data(copy):
    """Keys in the place of values: each is whole, and each is where the other was committed."""
    (keys,), (values,) = (list(copy.glob(f"parts/b00000000-*/{kind}/image/c/0/0/0")) for kind in KINDS)
    one, other = keys.read_bytes(), values.read_bytes()
    keys.write_bytes(other.ljust(len(one), b"\0")[: len(one)])
    values.write_bytes(one.ljust(len(other), b"\0")[: len(other)])
    store = actstore.open(copy)
    rows = store.sql("from rows where role = 'image' and sample_id like 'b0%'")
    for kind in KINDS:
        with pytest.raises(CorruptError):
            read(store, kind)(rows, block=0)
    assert verify.run(verify.steps(copy)) != []


def test_a_lost_file_is_missed(copy):
    (file,) = copy.glob("parts/b00000001-*/values/prefix/c/0/0/0")
    file.unlink()
    with pytest.raises(CorruptError, match="committed, but missing"):
        actstore.open(copy)


def forge(path, change):
    """Change the arrays of a record as `change` says, and make its checksum anew."""
    file = making.record(path, 0)
    record = records.load(file)
    change(record)
    making.change(file, **{name: record[name] for name in ("files", "arrays", "rows")})


def renamed(record, old, new):
    record["arrays"][new] = record["arrays"].pop(old)


def moved(record, old, new):
    """Keys and values of a role become those of another, in the arrays and in the files."""
    for kind in KINDS:
        renamed(record, f"{kind}/{old}", f"{kind}/{new}")
    record["files"] = {name.replace(f"/{old}/", f"/{new}/"): file for name, file in record["files"].items()}


def sized(record, name, **fields):
    record["arrays"][name] |= fields


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["arrays"].pop("values/prefix"), "holds keys or values of prefix, but not both"),
        (lambda r: renamed(r, "keys/prefix", "queries/prefix"), "'queries/prefix' is not the name of an array"),
        (lambda r: moved(r, "prefix", "eoi"), "array keys/eoi has 6 rows, another of its role 3"),
        (lambda r: renamed(r, "keys/image", "keys/../image"), "is not the name of an array"),
        (lambda r: sized(r, "keys/image", dimensions=["layer", "row", "feature"]), "has other axes than format 1"),
        (lambda r: sized(r, "keys/image", shape=[2, 6, 7]), "not a layout of format 1"),
        (lambda r: r.update(rows=18), "holds 18 rows and 4 samples, which is not what its arrays hold"),
    ],
)
def test_a_forged_record_is_refused(copy, change, message):
    forge(copy, change)
    with pytest.raises(CorruptError, match=message):
        actstore.open(copy)


@pytest.mark.parametrize("capture", [{"blocks": [0]}, {"blocks": [0, 1, 2]}, {"blocks": []}, {}, {"dtype": "float16"}])
def test_arrays_of_other_blocks_than_the_header_says(copy, capture):
    """A header of the same checksum cannot be forged by accident, so the records are forged to it."""
    header = copy / "actstore.json"
    kept = {"layers": [0, 1, 2], "d_model": 8, "dtype": "bfloat16", "blocks": [0, 1]}
    made = {**kept, **capture} if capture else {name: kept[name] for name in ("layers", "d_model", "dtype")}
    making.change(header, capture=made)
    for batch in range(3):
        making.change(making.record(copy, batch), store=records.load(header)["crc32c"])
    with pytest.raises(CorruptError, match="has not the layers, width or dtype of actstore.json"):
        actstore.open(copy)


@pytest.mark.parametrize("blocks", [[1, 0], [0, 0], [-1, 0], "x", [None], {"a": 1}, 3])
def test_a_header_with_strange_blocks(copy, blocks):
    making.change(copy / "actstore.json", capture={"layers": [0], "d_model": 8, "dtype": "bfloat16", "blocks": blocks})
    with pytest.raises(CorruptError, match="not a header of format 1"):
        actstore.open(copy)


# Export


def test_export(store, tmp_path):
    query = "from rows where role = 'image' order by hash(row_id)"
    rows = store.sql(query)
    export(store, query, [2], tmp_path / "x.parquet", keys=[1], values=[0, 1])
    found = pl.read_parquet(tmp_path / "x.parquet")
    assert found.columns[-4:] == ["layer_2", "keys_1", "values_0", "values_1"]
    assert_array_equal(found["layer_2"].to_numpy(), making.expected(rows, 2))
    assert_array_equal(found["keys_1"].to_numpy(), making.kv_expected(rows, 1, "keys"))
    export(store, query, [], tmp_path / "x.npy", keys=[0], values=[1])
    both = np.load(tmp_path / "x.npy")
    assert_array_equal(both[:, 1], making.kv_expected(rows, 1, "values"))
    export(store, query, [2], tmp_path / "x.safetensors", keys=[0])
    assert_array_equal(load_file(tmp_path / "x.safetensors")["keys_0"], making.kv_expected(rows, 0, "keys"))
    with pytest.raises(ActstoreError, match=r"vectors of widths \[6, 8\] make no array; write \.safetensors"):
        export(store, query, [2], tmp_path / "y.npy", keys=[0])
    with pytest.raises(ActstoreError, match="block 4 are not in this store"):
        export(store, query, [2], tmp_path / "y.npy", keys=[4])


def test_export_from_the_command_line(store, tmp_path):
    arguments = ["export", str(store.path), "from rows where role = 'prefix'", "-o", str(tmp_path / "x.npy")]
    done = CliRunner().invoke(main.cli, [*arguments, "--keys", "0"])
    assert done.exit_code == 0, done.output
    assert np.load(tmp_path / "x.npy").shape == (18, 6)
    done = CliRunner().invoke(main.cli, arguments)
    assert (done.exit_code, "Missing option '--layer'" in done.output) == (2, True)


# The golden store


def test_the_golden_store_is_read_forever(tmp_path):
    with tarfile.open(GOLDEN) as packed:
        packed.extractall(tmp_path, filter="data")
    old = actstore.open(tmp_path / "kv")
    assert (old.layers, old.blocks, old.kv, old.roles) == ((0, 1, 2), (0, 1), ["image", "prefix"], ["eoi", "image"])
    rows = old.sql("from rows where role = 'prefix' order by row_id")
    assert rows["row_id"].to_list()[:2] == [9, 10]
    assert old.keys(rows, block=0)[0].tolist() == [1.75, 1.875, 2.0, 2.125, 2.25, 2.375]
    assert old.values(rows[:2], block=1)[1].tolist() == [-4.125, -4.0, -3.875, -3.75, -3.625, -3.5]
    assert verify.run(verify.steps(old.path)) == []
    new = making.kv_store(tmp_path / "new", 2)  # and would be written the same today
    for one, other in zip(old.parts, new.parts, strict=True):
        assert one.commit.arrays == other.commit.arrays
        for name in one.commit.files:
            if "/c/" in name:
                assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
