import re
import shutil
import tracemalloc

import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import ActstoreError
from actstore.format import layout
from actstore.format.names import DTYPES
from actstore.read import arrays


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s")


def test_what_a_store_says_of_itself(store):
    assert store.layers == (0, 1, 2)
    assert store.roles == ["eoi", "image"]
    assert store.run == {"model": "tiny", "seed": 0}
    assert store.remaining == []
    assert store.vocabulary.rows() == [(1, "a"), (7, " dog")]
    assert re.fullmatch(r"<Store .*/s: 3 of 3 batches, layers 0\.\.2>", repr(store))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_vectors_are_those_written_in_the_order_asked_for(tmp_path, dtype, layer):
    store = making.store(tmp_path / "s", 2, dtype)
    rows = store.sql("from rows order by hash(row_id)")
    found = store.residual(rows, layer)
    assert found.dtype == np.float32
    assert_array_equal(found, making.expected(rows, layer))


def test_a_literal_vector(store):
    rows = store.sql("select row_id from rows where sample_id = 'b1s3' and role = 'eoi'")
    assert rows["row_id"].to_list() == [(1 << 32) + 7]
    assert store.residual(rows, 2)[0].tolist() == [0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5, 1.625]


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_and_duplicates_are_kept(store, data):
    known = store.sql("select row_id, role, place from rows order by row_id")
    chosen = data.draw(st.lists(st.integers(0, known.height - 1), max_size=60))
    rows = known[chosen]
    assert_array_equal(store.residual(rows, 1), making.expected(rows, 1))
    assert_array_equal(store.residual(rows["row_id"].to_list(), 1), making.expected(rows, 1))


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 20))
ROLES = st.lists(st.from_regex(r"[a-z]{1,3}(-[0-9]{1,2})?", fullmatch=True), min_size=1, max_size=3, unique=True)


@given(SHAPES, ROLES, st.sampled_from(sorted(DTYPES)), st.integers(0, 2**32 - 1), st.sampled_from([2**20, 64, 16]))
@settings(max_examples=20, deadline=None)
def test_round_trip(tmp_path_factory, shape, roles, dtype, seed, chunk_bytes):
    """Any shape, role and number type, with chunks and shards so small that there are many."""
    n_layers, n_rows, d_model = shape
    random = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("round") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actstore.format.layout.CHUNK_BYTES", chunk_bytes)
        patch.setattr("actstore.format.layout.SHARD_BYTES", 8 * chunk_bytes)
        patch.setattr("actstore.format.layout._layout_of", layout._layout_of.__wrapped__)  # not the cached one
        store = actstore.create(
            path, plan=pl.DataFrame({"sample_id": ["a"]}), layers=range(n_layers), d_model=d_model, dtype=dtype
        )
        values = {role: random.standard_normal(shape, np.float32) for role in roles}
        rows = pl.DataFrame({"sample_id": "a", "role": random.permutation(np.repeat(roles, n_rows)).tolist()})
        store.write(0, samples=pl.DataFrame({"sample_id": ["a"]}), rows=rows, residual=values)
        store = actstore.open(path)
        known = store.sql("select row_id, role, place from rows order by hash(row_id + 1)")
        layer = int(random.integers(n_layers))
        kind = DTYPES[dtype]
        expected = np.array([values[role][layer, place] for _, role, place in known.rows()])
        assert_array_equal(store.residual(known, layer), kind.decode(kind.encode(expected)))
        # and plain Zarr reads the same
        plain = zarr.open_array(store.parts[0].folder / "residual" / roles[0], mode="r")
        assert_array_equal(kind.decode(plain[...]), kind.decode(kind.encode(values[roles[0]])))
    shutil.rmtree(path)


def test_batches_go_through_the_rows_part_by_part(store):
    seen = []
    for rows, x in store.batches("from rows where role = 'image' order by hash(row_id)", 1, size=4):
        assert_array_equal(x, making.expected(rows, 1))
        seen.append(rows["row_id"])
    assert [len(ids) for ids in seen] == [4, 2, 4, 2, 4, 2]
    ids = pl.concat(seen)
    assert ids.is_sorted()
    assert ids.n_unique() == 18
    by_id = [x for _, x in store.batches(ids.reverse().to_numpy(), 1, size=4)]
    assert_array_equal(np.concatenate(by_id), store.residual(ids, 1))


def test_attention_of_a_key_with_its_samples(store):
    values, samples = store.attention("eoi", 1)
    assert_array_equal(values, np.concatenate([making.columns(batch)[1] for batch in range(3)]))
    assert samples["sample_id"].to_list()[3:6] == ["b0s3", "b1s0", "b1s1"]


def test_attention_of_parts_with_fewer_queries_is_padded(tmp_path):
    store = making.create(tmp_path / "s", 2)
    for batch, width in ((0, 5), (1, 3)):
        mass = np.full((3, 4, width), batch, np.float32)
        store.write(batch, **making.content(batch) | {"attention": {"mass": mass}})
    values, _ = actstore.open(store.path).attention("mass", 0)
    assert values.shape == (8, 5)
    assert_array_equal(values[4], [1, 1, 1, np.nan, np.nan])


def test_no_rows_have_no_vectors(store):
    assert store.residual(store.sql("from rows limit 0"), 0).shape == (0, 8)
    assert store.residual([], 0).shape == (0, 8)
    assert list(store.batches("from rows limit 0", 0)) == []
    assert list(store.batches([], 0)) == []


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda store: store.residual([0], 3), r"layer 3 is not in this store; it has 0\.\.2"),
        (lambda store: store.residual([9], 0), "row_id 9 is not in this store"),
        (lambda store: store.residual([7 << 32], 0), "row_id 30064771072 is not in this store"),
        (lambda store: store.residual([-1], 0), "row_id -1 is not in this store"),
        (lambda store: store.residual(store.sql("select label from rows"), 0), "no column row_id, only label; select"),
        (lambda store: store.residual(pl.DataFrame({"row_idx": [1]}), 0), "did you mean 'row_idx'"),
        (lambda store: store.residual(pl.DataFrame({"row_id": [None]}), 0), "a row_id is NULL"),
        (
            lambda store: store.residual(np.array([True, False]), 0),
            "not a mask of True and False; filter the rows by it",
        ),
        (lambda store: store.residual([True], 0), "not a mask of True and False"),
        (
            lambda store: store.residual(pl.DataFrame({"row_id": [True]}), 0),
            "a row_id is an integer; these are Boolean",
        ),
        (lambda store: store.residual([1.5], 0), "a row_id is an integer; these are float64"),
        (lambda store: store.residual(["1"], 0), "a row_id is an integer; these are <U1"),
        (lambda store: store.residual([2**63], 0), "it has more than 63 bits"),
        (
            lambda store: store.residual(store.sql("select 1.5 as row_id"), 0),
            r"a row_id is an integer, not Decimal\('1.5'\)",
        ),
        (lambda store: store.residual(store.sql("select 1::double as row_id"), 0), "these are Float64"),
        (lambda store: store.attention("last", 0), "no attention to 'last' in .*; it has eoi"),
        (lambda store: next(store.batches("from rows", 9)), "layer 9 is not in this store"),
        (lambda store: next(store.batches("from samples", 0)), "no column row_id"),
    ],
)
def test_a_question_without_an_answer(store, ask, message):
    with pytest.raises(ActstoreError, match=message):
        ask(store)


def test_a_store_is_what_it_was_when_opened(tmp_path):
    store = making.create(tmp_path / "s")
    store.write(0, **making.content(0))
    assert store.remaining == [1, 2]
    assert store.sql("from rows").height == 0
    assert actstore.open(store.path).sql("from rows").height == 9


def test_state_names_the_contents(tmp_path):
    store = making.create(tmp_path / "s")
    states = [store.state, actstore.open(store.path).state]
    store.write(0, **making.content(0))
    states.append(actstore.open(store.path).state)
    assert states[0] == states[1] != states[2]


def test_reading_needs_the_result_and_some_chunks(tmp_path):
    """One layer of 24,000 rows is 24 MB stored and 49 MB as floats: no second copy of either is made."""
    n_rows, d_model = 24_000, 512
    plan = pl.DataFrame({"sample_id": ["a"]})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0, 1], d_model=d_model)
    values = np.random.default_rng(0).standard_normal((2, n_rows, d_model), np.float32)
    rows = pl.DataFrame({"sample_id": ["a"] * n_rows, "role": ["image"] * n_rows})
    store.write(0, samples=plan, rows=rows, residual={"image": values})
    store = actstore.open(store.path)
    row_ids = store.sql("select row_id from rows order by hash(row_id)")["row_id"].to_numpy()
    store.residual(row_ids[:1], 0)  # imports, and the table of rows, are paid for once
    tracemalloc.start()
    found = store.residual(row_ids, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    chunks = arrays.THREADS * 6 * 2**20  # each thread: a chunk encoded, decoded, and its vectors as float32
    assert found.nbytes < peak < found.nbytes + chunks + 64 * n_rows
