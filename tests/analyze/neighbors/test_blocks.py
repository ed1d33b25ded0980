"""Neighbours by blocks are those of the whole, bit for bit, whatever the blocks."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore_analyze.devices import Torch
from actstore_analyze.neighbors import blocks, nearest
from actstore_analyze.neighbors.blocks import Block, search_blocks
from actstore_analyze.neighbors.exact import products
from actstore_analyze.neighbors.identical import owners_of
from actstore_analyze.neighbors.measure import neighbors_of
from actstore_analyze.neighbors.neighbors import Neighbors
from actstore_analyze.neighbors.points import moderate, parse, tie_of
from actstore_analyze.neighbors.tiles import Accelerator, Processor

TILERS = {"numpy": Processor(), "torch": Accelerator(Torch("cpu"))}
METRICS = ["euclidean", "normalised", "cosine"]


@dataclass
class Small:
    """Tiles of a few rows and columns."""

    rows: int
    columns: int
    tiler: Processor | Accelerator

    threads = property(lambda self: self.tiler.threads)
    put = property(lambda self: self.tiler.put)
    near = property(lambda self: self.tiler.near)


class Cut:
    """Points of an array in blocks of `of` queries and `size` others."""

    def __init__(self, x, metric, of, size, tiler=TILERS["numpy"]):
        self.points, self.scale = moderate(parse(x, metric))
        self.tie, self.of, self.size, self.tiler = tie_of(metric), of, size, tiler

    def __len__(self):
        return len(self.points)

    def owners(self):
        return owners_of(self.points)

    def search(self, distinct, rows, k):
        numbers = np.arange(len(distinct))
        return Neighbors(*self._found(Block(self.points[distinct], numbers, numbers), rows, k), rows)

    def scan(self, rows, k, groups):
        return self._found(Block(self.points, np.arange(len(self.points)), groups), rows, k)

    def _found(self, every, rows, k):
        base = [Block(*(one[i : i + self.size] for one in every)) for i in range(0, len(every.numbers), self.size)]
        queries = [Block(*(one[rows[i : i + self.of]] for one in every)) for i in range(0, len(rows), self.of)]
        found = [search_blocks(one, base, k, self.tie, self.tiler) for one in queries]
        return tuple(np.concatenate(one) for one in zip(*found, strict=True))


def made(kind, n, d, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    if kind == "copies":
        x = x[rng.integers(0, max(1, n // 3), n)]
    elif kind == "lattice":
        x = rng.integers(-1, 2, (n, d)) + 2.0
    elif kind == "far":
        x += 1e5
    elif kind == "massive dimension":
        x[:, 0] = 3000 * rng.choice([-1, 1], n)
    elif kind == "massive point":
        x[rng.integers(n)] *= 1e5
    elif kind == "clusters":
        x = 1e3 * x[rng.integers(0, 3, n)] + 1e-3 * rng.standard_normal((n, d))
    elif kind == "rays":  # directions that differ in the last digits alone
        x = x[rng.integers(0, max(1, n // 4), n)] * rng.uniform(0.1, 10, (n, 1))
    elif kind == "huge":
        x *= 1e30
    return x.astype(dtype)


KINDS = ["gauss", "copies", "lattice", "far", "massive dimension", "massive point", "clusters", "rays", "huge"]


def assert_same(found, expected):
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.points, expected.points)
    assert found.n == expected.n


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_blocks_of_any_size_give_what_the_whole_gives(data):
    n = data.draw(st.integers(4, 40), "points")
    x = made(
        data.draw(st.sampled_from(KINDS), "kind"),
        n,
        data.draw(st.integers(1, 12), "dimensions"),
        data.draw(st.integers(0, 2**32 - 1), "seed"),
        data.draw(st.sampled_from([np.float32, np.float64]), "type"),
    )
    metric, size = data.draw(st.sampled_from(METRICS), "metric"), st.integers(1, n)
    tiler = Small(data.draw(size), data.draw(size), TILERS[data.draw(st.sampled_from([*TILERS]), "tiler")])
    groups = data.draw(st.none() | st.integers(1, n // 2), "size of groups")
    groups = None if groups is None else np.random.default_rng(n).permutation(n) // groups
    most = n - 1 if groups is None else n - np.bincount(groups).max()
    k = data.draw(st.integers(1, int(most)), "k")
    asked = data.draw(st.none() | st.sets(st.integers(0, n - 1), min_size=1).map(sorted), "queries")
    asked = None if asked is None else np.array(asked)
    cut = Cut(x, metric, data.draw(size), data.draw(size), tiler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_crowd", data.draw(st.sampled_from([lambda _: 0, blocks._crowd]), "who is in doubt"))
        found = neighbors_of(cut, k, metric=metric, groups=groups, queries=asked)
    assert_same(found, nearest(x, k, metric=metric, groups=groups, queries=asked))


@pytest.mark.parametrize("tiler", TILERS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
def test_more_points_than_a_tile_has(kind, metric, tiler):
    x = made(kind, 500, 48, 5)
    found = neighbors_of(Cut(x, metric, 300, 171, Small(64, 100, TILERS[tiler])), 12, metric=metric)
    assert_same(found, nearest(x, 12, metric=metric))


class Wrong:
    """Products as wrong as the bound allows: the true neighbours too far, all others too near."""

    rows, columns, threads = 128, 100, 1

    def __init__(self, true, tiler):
        self.true, self.tiler = true, tiler

    def put(self, centred):
        return centred

    def near(self, queries, others, halves):
        x, y = queries.astype(np.float64), others.astype(np.float64)
        norms = [np.linalg.norm(one, axis=1) for one in (x, y)]
        error = 0.99 * (x.shape[1] + 16) * 2.0**-24 * (norms[0][:, None] + norms[1]) ** 2
        own, other = (self.places(one) for one in (queries, others))
        near = (self.true[own][:, :, None] == other).any(axis=1)
        values = x @ y.T - (y * y).sum(axis=1) / 2 - np.where(near, error, -error) / 2
        tile = self.tiler.near(self.tiler.put(queries), self.tiler.put(others), halves)
        tile._values[:] = torch.from_numpy(values) if isinstance(self.tiler, Accelerator) else values
        return tile

    def places(self, centred):
        return np.array([self.known[one.tobytes()] for one in centred])


@pytest.mark.parametrize("tiler", TILERS)
@pytest.mark.parametrize("spread", [True, False])
def test_worst_float32_errors_hide_no_neighbour(spread, tiler):
    x = made("gauss", 400, 400, 0)
    x = x[:, :96] if spread else np.eye(400, dtype=np.float32) + np.float32(1e-4) * x
    expected = nearest(x, 10)
    wrong = Wrong(expected.indices, TILERS[tiler])
    every = Block(x, np.arange(400), np.arange(400))
    wrong.known = {
        one.tobytes(): i for i, one in enumerate(blocks.centred_at(x, blocks.centre_of(x)))
    }  # one block of queries: one centre
    base = [Block(*(one[i : i + 90] for one in every)) for i in range(0, 400, 90)]
    distances, indices = search_blocks(every, base, 10, 0.0, wrong)
    np.testing.assert_array_equal(indices, expected.indices)
    np.testing.assert_array_equal(distances, expected.distances)


def test_worst_float64_errors_hide_no_neighbour(monkeypatch):
    x = made("gauss", 300, 200, 1, np.float64) * 1e-9 + np.eye(300, 200)
    expected = nearest(x, 8)
    known = {one.tobytes(): i for i, one in enumerate(x)}

    def wrong(queries, others, centre):
        _, error = products(queries, others, centre)
        own, other = (np.array([known[one.tobytes()] for one in side]) for side in (queries, others))
        near = (expected.indices[own][:, :, None] == other).any(axis=1)
        exact = np.square(queries[:, None] - others).sum(axis=2)
        return exact + np.where(near, 0.99, -0.99) * error, error

    monkeypatch.setattr(blocks, "products", wrong)
    monkeypatch.setattr(blocks, "_crowd", lambda _: 0)
    assert_same(neighbors_of(Cut(x, "euclidean", 300, 110), 8), expected)


def test_rows_that_float32_leaves_in_doubt_are_left_to_float64(monkeypatch):
    """Points on a sphere around a far one: all as near as float32 can tell."""
    doubtful = []
    monkeypatch.setattr(blocks, "products", lambda *asked: doubtful.append(len(asked[0])) or products(*asked))
    x = made("clusters", 600, 64, 2, np.float64)
    assert_same(neighbors_of(Cut(x, "euclidean", 600, 250), 5), nearest(x, 5))
    assert sum(doubtful) > 100
    doubtful.clear()
    x = made("massive dimension", 600, 64, 2)
    x[:, 0] = 3000
    assert_same(neighbors_of(Cut(x, "euclidean", 600, 250), 5), nearest(x, 5))
    assert not doubtful


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_proposes_and_the_neighbours_are_the_same(kind, metric, grouped):
    x = made(kind, 200, 24, 3)
    groups = np.random.default_rng(1).integers(0, 4, 200) if grouped else None
    for asked in (None, np.arange(3, 200, 7)):
        found = nearest(x, 9, metric=metric, groups=groups, queries=asked, device=Torch("cpu"))
        assert_same(found, nearest(x, 9, metric=metric, groups=groups, queries=asked))
