"""Vectors that stay in the store: what is measured of them by blocks is what is measured of them in memory."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import actstore
from actstore.errors import ActstoreError, UndefinedError
from actstore_analyze.dimension.study import Dimension
from actstore_analyze.neighbors import firsts, nearest
from actstore_analyze.study import executor, stored
from actstore_analyze.study.stored import Placed, Search, Stored
from clusters import cluster
from two_sided import D, N, command, make

BLOCKS = -(-2 * N // 37)
METRICS = ["euclidean", "normalised", "cosine"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return actstore.open(make(tmp_path_factory.mktemp("two") / "store"))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Everything is large, and a block has 37 of 160 vectors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stored, "LARGEST", 0)
    monkeypatch.setattr(stored, "BLOCK_BYTES", 37 * D * 4)


class Array:
    """A store of some vectors (n, d); row i has the id i + 5."""

    def __init__(self, x):
        self.x, self.header = x, SimpleNamespace(d_model=x.shape[1], image_from=0)

    def residual(self, rows, layer):
        assert layer == 3
        return self.x[rows - 5]


class Alone:
    """Who does the work by himself."""

    def mapped(self, store, function, tasks):
        return [function(store, task) for task in tasks]


def in_blocks(x, rows=None):
    """The vectors as they stay in a store, where they have other rows between them."""
    rows = np.arange(len(x)) if rows is None else rows
    there = np.zeros((rows.max() + 1, x.shape[1]), x.dtype)
    there[rows] = x
    return Stored(Array(there), Alone(), Placed(rows + 5, 3))


def how(**options):
    return Dimension(layers=(3,), roles=("eoi",), **options)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_neighbours_are_those_of_vectors_in_memory(data):
    """Bit for bit, prepared too: whatever is identical, tied, in one group, asked for."""
    n, d = data.draw(st.integers(5, 40), "points"), data.draw(st.integers(2, 6), "dimensions")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    x = rng.integers(1, 3, (n, d)) if data.draw(st.booleans(), "lattice") else rng.standard_normal((n, d)) + 40
    x = (x * data.draw(st.sampled_from([1, 1e-30, 1e30]), "size")).astype(np.float32)
    metric = data.draw(st.sampled_from(METRICS), "metric")
    asked = how(center=data.draw(st.booleans(), "centred"), drop_dims=data.draw(st.sampled_from([(), (1,)]), "dropped"))
    if metric != "euclidean" and (asked.prepared(x) == 0).all(axis=1).any():
        metric = "euclidean"
    groups = rng.permutation(n) // data.draw(st.integers(1, 3), "size of groups")
    groups = groups if data.draw(st.booleans(), "grouped") else None
    queries = np.sort(rng.permutation(n)[: data.draw(st.integers(1, n))]) if data.draw(st.booleans()) else None
    k = data.draw(st.integers(1, n - 4), "k")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "BLOCK_BYTES", data.draw(st.integers(1, n), "block") * d * 4)
        there = in_blocks(x, np.sort(rng.permutation(2 * n)[:n])).prepared(asked)
        found = there.nearest(k, metric=metric, groups=groups, queries=queries)
        own = there.firsts()
    expected = nearest(asked.prepared(x), k, metric=metric, groups=groups, queries=queries)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.points, expected.points)
    np.testing.assert_array_equal(own, firsts(asked.prepared(x)))
    assert there.constant == bool((asked.prepared(x) == asked.prepared(x)[0]).all())


def test_the_mean_is_that_of_all_at_once(monkeypatch):
    monkeypatch.setattr(stored, "BLOCK_BYTES", 1000 * 64 * 4)
    x = np.random.default_rng(0).standard_normal((9_999, 64)).astype(np.float32) * 1000
    mean = in_blocks(x).prepared(how(center=True)).placed.mean
    np.testing.assert_array_equal(mean, x.mean(axis=0, dtype=np.float64))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_cannot_be_measured_is_said_as_of_vectors_in_memory(small, metric, value):
    x = np.random.default_rng(0).standard_normal((30, D)).astype(np.float32)
    x[[12, 25]] = value
    there = in_blocks(x)
    if value == 0 and metric == "euclidean":
        assert there.nearest(3, metric=metric).distances[12, 0] == 0
        return
    with pytest.raises(ActstoreError) as told:
        nearest(x, 3, metric=metric)
    with pytest.raises(ActstoreError) as also:
        there.nearest(3, metric=metric)
    assert str(also.value) == str(told.value)
    assert type(also.value) is type(told.value) is (UndefinedError if value == 0 else ActstoreError)
    assert "row 12" in str(also.value)


def slow(*asked):
    return pytest.param(asked, marks=pytest.mark.slow)


CALLS = [
    ("overlap", "--roles", "random-text,eoi", "-k", "5"),
    ("overlap", "--roles", "random-text", "-k", "5", "--queries", "20", "--metric", "cosine"),
    ("overlap", "--roles", "random-image", "-k", "5", "--group", "label"),
    ("overlap", "--roles", "eoi,random-text", "-k", "5", "--with-role", "random-image", "--unique", "--center"),
    ("dimension", "--roles", "random-image,eoi", "--center", "--drop-dims", "0,3"),
    ("dimension", "--roles", "random-text", "--queries", "30", "--metric", "normalised"),
    ("cluster", "--min-size", "5"),
    slow("cluster", "--min-size", "5", "--no-interval", "--group", "split", "-k", "5"),
    slow("cluster", "--min-size", "5", "--queries", "40"),
    ("cluster", "--min-size", "5", "--method", "hdbscan"),
]


@pytest.mark.parametrize("asked", CALLS, ids=lambda asked: " ".join(asked[:1] + asked[3:]))
def test_tables_are_the_same(store, small, monkeypatch, capsys, asked):
    name, *options = asked
    monkeypatch.setattr(stored, "LARGEST", 1 << 30)
    status, whole, _ = command(capsys, name, store.path, *options, "--force")
    monkeypatch.setattr(stored, "LARGEST", 0)
    assert status == 0
    assert command(capsys, name, store.path, *options, "--force")[:2] == (0, whole)


ASKED = ("overlap", "--roles", "random-text", "-k", "5", "--layers", "1,2")


def test_processes_share_the_blocks(store, small, monkeypatch, capsys):
    """Workers, which have the usual sizes, are told these."""
    words = (ASKED[0], store.path, *ASKED[1:-1], "2", "--force")
    status, shared, err = command(capsys, *words, "--jobs", "2")
    monkeypatch.setattr(stored, "LARGEST", 1 << 30)
    assert (status, shared) == (0, command(capsys, *words)[1]), err


@pytest.mark.slow
def test_workers_of_dask_share_the_blocks(store, small, monkeypatch, capsys):
    monkeypatch.setattr(executor, "POLL", 0.2)
    with cluster(2) as dask:
        words = (ASKED[0], store.path, *ASKED[1:-1], "2", "--force")
        status, shared, err = command(capsys, *words, "--executor", dask.url)
    monkeypatch.setattr(stored, "LARGEST", 1 << 30)
    assert (status, shared) == (0, command(capsys, *words)[1]), err


def test_an_interrupted_call_goes_on_with_the_blocks_that_are_left(store, small, monkeypatch, capsys):
    """The first layer is done, of the second two blocks of queries are: only the others are searched again."""
    searched, stop = [], True
    found = Search.found

    def counted(self, where, queries):
        if stop and len(searched) == BLOCKS + 2:
            raise KeyboardInterrupt
        searched.append((self.placed.layer, *queries.tolist()))
        return found(self, where, queries)

    monkeypatch.setattr(Search, "found", counted)
    words = (ASKED[0], store.path, *ASKED[1:], "--force")
    assert command(capsys, *words)[0] != 0
    before, stop = len(searched), False
    status, table, err = command(capsys, *words)
    assert status == 0
    assert f"2 of {BLOCKS} units were done by a call that was interrupted" in err
    assert len(searched) - before == BLOCKS - 2
    assert len({*searched}) == len(searched) == 2 * BLOCKS
    monkeypatch.setattr(stored, "LARGEST", 1 << 30)
    assert command(capsys, *words)[:2] == (0, table)


def test_memory_is_that_of_two_blocks(tmp_path, monkeypatch):
    """Of a role whose vectors are 33 MB, with blocks of 1 MB; a tile of products has as much."""
    n, d = 8_000, 1024
    ids = [f"s{i:04}" for i in range(n)]
    plan = pl.DataFrame({"batch": 0, "sample_id": ids, "label": np.arange(n) % 3})
    made = actstore.create(tmp_path / "store", plan=plan, layers=[0], d_model=d, dtype="float32", run={"model": "tiny"})
    x = np.random.default_rng(0).standard_normal((1, n, d)).astype(np.float32)
    rows = pl.DataFrame({"sample_id": ids, "role": "eoi", "k": 0, "modality": "special"})
    made.write(0, samples=plan.select("sample_id", status=pl.lit("ok")), rows=rows, residual={"eoi": x})
    opened = actstore.open(tmp_path / "store")
    del x, rows

    def peak():
        tracemalloc.start()
        try:
            table = opened.measure.overlap(roles=["eoi"], queries=100, k=5, no_interval=True, force=True).table
            return table, tracemalloc.get_traced_memory()[1] / 1e6
        finally:
            tracemalloc.stop()

    whole, most = peak()
    monkeypatch.setattr(stored, "LARGEST", 10_000_000)
    monkeypatch.setattr(stored, "BLOCK_BYTES", 1_000_000)
    table, least = peak()
    assert table.equals(whole)
    assert least < 16 < 66 < most
