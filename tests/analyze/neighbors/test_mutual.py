"""All points of themselves, by halves and bounds: the same bits as by FAISS, whatever the points and the errors."""

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore_analyze.devices import HOST
from actstore_analyze.neighbors import blocks, mutual, nearest, proposals, search
from actstore_analyze.neighbors.closest import Closest
from actstore_analyze.neighbors.exact import differences, scanned
from actstore_analyze.neighbors.points import centred_at, parse, tie_of
from actstore_analyze.neighbors.proof import OfDifferences, OfProducts
from actstore_analyze.neighbors.shadows import cells, leading, shadows
from actstore_analyze.neighbors.tiles import tiler_on

D = 160
add = Closest.add
DIRECTIONS = [None, 4, 40]


def power_law(n, d=D, slope=1.5, seed=0):
    """A Gaussian whose variances fall as i^-slope, in directions of no axis."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return (rng.standard_normal((n, d)) * np.arange(1, d + 1) ** (-slope / 2) @ turned).astype(np.float32)


def found(monkeypatch, x, k, r, **options):
    """Neighbours by blocks of 32 points and r directions, or by FAISS for r = "FAISS"."""
    with monkeypatch.context() as m:
        m.setattr(proposals, "_is_worth", lambda *_: r != "FAISS")
        m.setattr(proposals, "_probed", lambda points, *_: None if r is None else leading(points, r))
        m.setattr(mutual, "BLOCK", 32)
        return nearest(x, k, **options)


def assert_same(monkeypatch, x, k, r, **options):
    ours, theirs = (found(monkeypatch, x, k, way, **options) for way in (r, "FAISS"))
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_array_equal(ours.distances, theirs.distances)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(40, 300),
    k=st.integers(1, 39),
    slope=st.sampled_from([0, 0.5, 1, 1.5, 2, 4]),
    r=st.sampled_from(DIRECTIONS),
    metric=st.sampled_from(["euclidean", "cosine"]),
    kind=st.sampled_from([np.float32, np.float64]),
    change=st.sampled_from(["none", "offset", "massive", "copies", "near copies", "grid", "scales"]),
)
def test_any_spectrum(seed, n, k, slope, r, metric, kind, change):
    rng = np.random.default_rng(seed)
    x = power_law(n, slope=slope, seed=seed)
    x = {
        "none": lambda: x,
        "offset": lambda: x + 100 * rng.standard_normal(D),
        "massive": lambda: x + 3000 * (np.arange(D) % 80 == 17) * rng.choice([-1, 1], (n, 1)),
        "copies": lambda: x[rng.integers(0, n, n)],
        "near copies": lambda: x[rng.integers(0, 5, n)] * (1 + 1e-7 * rng.standard_normal((n, 1))),
        "grid": lambda: np.round(x),
        "scales": lambda: x * 10 ** rng.uniform(-3, 3, (n, 1)),
    }[change]().astype(kind)
    if metric == "cosine":
        x = x[np.any(x, axis=1)]
    if len(x) > k:
        with pytest.MonkeyPatch.context() as patched:
            assert_same(patched, x, k, r, metric=metric)


def sphere(n):
    x = np.random.default_rng(1).standard_normal((n, D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("r", DIRECTIONS)
@pytest.mark.parametrize(
    "made",
    [
        lambda: sphere(300),
        lambda: np.eye(150, D, dtype=np.float32),
        lambda: np.repeat(100 * np.eye(3, D), 100, axis=0) + 0.01 * power_law(300, seed=3),
        lambda: np.repeat([[0.0], [1e4]], 150, axis=0) + np.float32(1e-3) * power_law(300),
        lambda: 1 + np.float32(2.0**-20) * np.sign(power_law(300, slope=0)),
    ],
    ids=["sphere", "all equally far", "clusters equally far", "two far clusters", "corners of a tiny cube"],
)
def test_points_that_bounds_tell_little_of(monkeypatch, made, r):
    assert_same(monkeypatch, made(), 12, r)


@pytest.mark.parametrize("r", [*DIRECTIONS, "FAISS"])
def test_a_long_chain_of_ties_ends_where_it_does_for_blocks(monkeypatch, r):
    """Unit vectors that are ties apart, each from the next: products tell none from another, and differences do."""
    x = np.repeat(power_law(2), 100, axis=0) + 1e-13 * power_law(200).astype(np.float64)
    theirs = found(monkeypatch, x, 15, r, metric="normalised")
    queries = np.arange(200)
    asked = blocks.Block(parse(x, "normalised"), queries, queries)
    distances, indices = blocks.search_blocks(asked, [asked], 15, tie_of("normalised"), tiler_on(HOST))
    np.testing.assert_array_equal(theirs.indices, indices)
    np.testing.assert_array_equal(theirs.distances, distances)


@pytest.mark.parametrize("r", DIRECTIONS)
def test_groups(monkeypatch, r):
    assert_same(monkeypatch, power_law(300), 10, r, groups=np.arange(300) // 7)


@pytest.mark.parametrize("r", DIRECTIONS)
@pytest.mark.parametrize("spread", [True, False], ids=["spread", "even"])
def test_worst_errors_hide_no_neighbour(monkeypatch, spread, r):
    """Estimates as wrong as the bound allows: of neighbours too far, of all others too near; shadows' too."""
    x = (power_law(300) if spread else np.eye(300, D) + 1e-4 * power_law(300, slope=0)).astype(np.float32)
    k, d = 10, x.shape[1]
    away = np.linalg.norm(x[:, None].astype(np.float64) - x, axis=2)
    true = np.argsort(away, axis=1, kind="stable")[:, : k + 1]
    near = np.zeros(away.shape, bool)
    near[np.arange(300)[:, None], true] = True
    near |= near.T
    order = {}

    def wrong(left, right, squares, terms, near):
        norms = [np.linalg.norm(side.astype(np.float64), axis=1) for side in (left, right)]
        error = 0.99 * terms * 2.0**-24 * (norms[0][:, None] + norms[1]) ** 2
        return np.where(near, squares + error, squares - error)

    def products(vectors, halves, here, there):
        left, right = vectors[here].astype(np.float64), vectors[there].astype(np.float64)
        squares = np.square(left[:, None] - right).sum(axis=2)
        full = vectors.shape[1] == d
        rows, columns = (np.arange(300)[one] if full else order["cells"][one] for one in (here, there))
        made = wrong(left, right, squares, d + 16 if full else d - 56, near[np.ix_(rows, columns)])
        return (made / -2).astype(np.float32)

    def sorted_cells(points, size):
        order["cells"] = cells(points, size)
        return order["cells"]

    monkeypatch.setattr(mutual, "products", products)
    monkeypatch.setattr(mutual, "cells", sorted_cells)
    np.testing.assert_array_equal(found(monkeypatch, x, k, r).indices, true[:, 1:])


@pytest.mark.parametrize("slope", [0, 1, 2, 6])
def test_shadows_are_no_farther_apart_than_points(slope):
    x = power_law(200, slope=slope) * np.float32(10) ** np.arange(-3, 5).repeat(25)[:, None]
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    truth = np.linalg.norm(x[:, None].astype(np.float64) - x, axis=2)
    for r in (1, 8, 40):
        cast = shadows(x, leading(x, r)).astype(np.float64)
        apart = np.linalg.norm(cast[:, None] - cast, axis=2)
        assert (apart <= truth + 2.0**-19 * (norms[:, None] + norms)).all()
        assert np.abs(np.linalg.norm(cast, axis=1) - norms).max() <= 2.0**-19 * norms.max()


def test_leading_directions_are_orthonormal_and_the_first_hold_most():
    x = power_law(400)
    directions = leading(x, 30)
    np.testing.assert_allclose(directions.T @ directions, np.eye(30), atol=1e-14)
    held = np.square(x.astype(np.float64) @ directions).sum(axis=0)
    best = np.linalg.svd(x.astype(np.float64), compute_uv=False)[:30] ** 2
    assert held[:4].sum() > 0.99 * best[:4].sum()
    assert held[:4].sum() > 10 * held[-4:].sum()


@pytest.mark.parametrize("n", [1, 31, 32, 33, 300])
def test_cells_hold_each_point_once(n):
    points = power_law(n, slope=4)
    order = cells(points @ np.linalg.svd(power_law(300, slope=4))[2].T, 32)
    assert sorted(order) == list(range(n))
    if n == 300:
        spread = [points[order[at : at + 32]].var(axis=0).sum() for at in range(0, n, 32)]
        assert np.mean(spread) < 0.4 * points.var(axis=0).sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 90), st.integers(50, 6000))
def test_the_closest_are_kept_in_any_order(seed, width, at_once):
    rng = np.random.default_rng(seed)
    n, k = 20, width // 2
    estimates = rng.integers(1, 2000, (n, 300)).astype(np.float32)  # with ties
    met = rng.permutation(estimates.size)
    closest = Closest(n, width, OfProducts(np.zeros(n), 1, k, 0.0))
    for start in range(0, len(met), at_once):
        pairs = np.sort(met[start : start + at_once])
        rows, columns = np.divmod(pairs, 300)
        wanted = estimates[rows, columns] < closest.limit[rows]
        closest.add(rows[wanted], columns[wanted] + n, estimates[rows[wanted], columns[wanted]])
    kept, columns = closest.lists()
    best = np.sort(np.column_stack([np.zeros(n), estimates]), axis=1)[:, :width]
    np.testing.assert_array_equal(kept[:, : k + 1], best[:, : k + 1])
    below = best < closest.limit[:, None]  # what is above is of no neighbour, and may be left out
    np.testing.assert_array_equal(kept[below], best[below])
    listed = np.isfinite(kept)
    np.testing.assert_array_equal(columns[:, 0], np.arange(n))
    rows, places = np.nonzero(listed[:, 1:])
    np.testing.assert_array_equal(kept[rows, places + 1], estimates[rows, columns[rows, places + 1] - n])
    assert all(len(set(one[one >= 0])) == (one >= 0).sum() for one in columns)


@pytest.mark.parametrize("r", DIRECTIONS)
def test_threads_find_the_same(monkeypatch, r):
    x = power_law(700)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        assert_same(monkeypatch, x, 9, r)
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("n", [32, 60, 9 * 32, 10 * 32 - 5], ids=["one block", "two", "odd", "even"])
def test_each_pair_is_met_once(monkeypatch, n):
    met = np.eye(n, dtype=int)
    monkeypatch.setattr(Closest, "add", lambda _, rows, columns, *__: np.add.at(met, (rows, columns), 1))
    monkeypatch.setattr(Closest, "begin", lambda *_: None)
    monkeypatch.setattr(mutual, "BLOCK", 32)
    x = power_law(n)
    mutual.mutual(x, n, OfProducts.of(x, n - 1, 0.0), None)
    assert (met == 1).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1, 1e3, 1e5]), st.sampled_from([np.float32, np.float64]))
def test_estimates_of_differences_err_no_more_than_their_proof_says(seed, away, kind):
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(D)
    x = (away * rng.standard_normal(D) + rng.standard_normal((40, D)) * np.logspace(-6, 3, 40)[:, None]).astype(kind)
    centred = centred_at(x, centre)
    rows, others = np.divmod(np.arange(1600), 40)
    proof = OfDifferences(OfProducts.of(centred, 3, 0.0))
    truth = np.linalg.norm(x[rows].astype(np.float64) - x[others], axis=1)
    estimates = np.square(centred[rows] - centred[others]).sum(axis=1)
    products = (
        np.square(centred).sum(axis=1)[:, None] + np.square(centred).sum(axis=1) - 2 * centred @ centred.T
    ).ravel()
    assert (truth <= proof._farthest(rows, estimates)).all()
    assert (estimates <= proof._estimate(rows, truth)).all()
    assert (products <= proof.products(rows, estimates)).all()


def test_near_points_far_from_the_centre_are_told_apart_without_a_scan(monkeypatch):
    rng = np.random.default_rng(0)
    x = np.repeat(200 * power_law(8), 100, axis=0) + 0.05 * power_law(800, slope=0)
    x = rng.permutation(x)
    scans = []
    monkeypatch.setattr(search, "scanned", lambda *asked: (scans.append(len(asked[2])), scanned(*asked))[1])
    assert_same(monkeypatch, x, 9, 40)
    assert scans == [800]  # by FAISS alone


def test_points_in_order_of_their_lengths_are_as_cheap_as_in_any(monkeypatch):
    offered = []
    monkeypatch.setattr(Closest, "add", lambda self, rows, *more: (offered.append(len(rows)), add(self, rows, *more)))
    x = power_law(960, slope=0) * np.logspace(0, 6, 960, dtype=np.float32)[:, None]
    counts = []
    for points in (x, np.random.default_rng(0).permutation(x)):
        offered.clear()
        found(monkeypatch, points, 5, None)
        counts.append(sum(offered))
    assert counts[0] < 1.2 * counts[1]


@pytest.mark.parametrize("pairs", [0, 1, 2, 1000])
def test_threads_tell_the_same_differences(pairs):
    rng = np.random.default_rng(0)
    x = power_law(50)
    left, right = rng.integers(0, 50, (2, pairs))
    naive = np.sqrt([np.vecdot(*[x[i].astype(np.float64) - x[j]] * 2) for i, j in zip(left, right, strict=True)])
    for threads in (1, 3):
        np.testing.assert_array_equal(differences(x, left, x, right, threads), naive)


def test_the_probe_takes_bounds_where_spectra_fall():
    falling, white = power_law(4096, 256, 2), power_law(4096, 256, 0)
    assert 32 <= proposals._probed(falling, 43, OfProducts.of(falling, 10, 0.0)).shape[1] <= 64
    assert proposals._probed(white, 43, OfProducts.of(white, 10, 0.0)) is None


def test_the_probe_takes_bounds_where_products_leave_doubts():
    rng = np.random.default_rng(0)
    x = np.repeat(power_law(40, 256, 0), 200, axis=0)
    near, far = (rng.permutation(away * x + 0.05 * power_law(8000, 256, 0)) for away in (1, 2000))
    assert proposals._probed(near, 43, OfProducts.of(near, 10, 0.0)) is None
    assert proposals._probed(far, 43, OfProducts.of(far, 10, 0.0)) is not None


def test_what_the_size_decides(monkeypatch):
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: 1)
    assert proposals._is_worth(10_000, 256, 63)
    assert not proposals._is_worth(9_999, 256, 63)
    assert not proposals._is_worth(10_000, 255, 63)
    assert not proposals._is_worth(10_000, 256, 320)
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: 16)
    assert not proposals._is_worth(30_000, 256, 63)
