"""Nearest neighbours are exact: against golden indices, brute force in float64 and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.neighbors import NearestNeighbors

from actstore.errors import ActstoreError
from actstore_analyze.neighbors import firsts, nearest, search
from actstore_analyze.neighbors.proof import OfProducts

GOLDEN = Path(__file__).parents[1] / "golden" / "overlap"
METRICS = ["euclidean", "normalised", "cosine"]


def brute_force(x, k, groups=None):
    """The naive way, one point at a time."""
    x = np.asarray(x, np.float64)
    own = np.arange(len(x)) if groups is None else groups
    distances, indices = [], []
    for i, point in enumerate(x):
        away = np.sqrt(((x - point) ** 2).sum(axis=1))
        away[own == own[i]] = np.inf
        order = np.lexsort((np.arange(len(x)), away))[:k]
        distances.append(away[order])
        indices.append(order)
    return np.array(distances), np.array(indices)


def assert_exact(x, k):
    found = nearest(x, k)
    distances, indices = brute_force(x, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-14)
    return found


def gauss(n=700, d=96, seed=0, kind=np.float32):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(kind)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["ov1_gauss", "ov2_lattice_ties"])
def test_golden_neighbours(name, metric, kind):
    golden = np.load(GOLDEN / f"{name}.npz")
    expected = golden["euclidean_indices" if metric == "euclidean" else "directions_indices"]
    found = nearest(golden["x"].astype(kind), expected.shape[1], metric=metric)
    np.testing.assert_array_equal(found.indices, expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_as_scikit_learn(metric):
    x = gauss(kind=np.float64)
    oracle = NearestNeighbors(n_neighbors=20, metric=metric, algorithm="brute").fit(x)
    distances, indices = oracle.kneighbors()  # without an argument a point is not its own neighbour
    found = nearest(x, 20, metric=metric)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9)


@pytest.mark.parametrize("shift", ["constant", "random signs"])
def test_massive_dimensions_lose_no_neighbour(shift):
    x = gauss(n=900, d=128)
    signs = np.ones((900, 2)) if shift == "constant" else np.random.default_rng(1).choice([-1, 1], (900, 2))
    x[:, [17, 90]] += np.float32([3000, -3000]) * signs.astype(np.float32)
    assert_exact(x, 30)


def test_a_constant_offset_costs_no_scan(monkeypatch):
    monkeypatch.setattr(search, "scanned", lambda *_: pytest.fail("scanned in float64"))
    x = gauss()
    x[:, [17, 90]] += np.float32([3000, -3000])
    assert_exact(x, 30)


@pytest.mark.parametrize(
    "x",
    [gauss(n=400, d=96), np.eye(400, dtype=np.float32) + np.float32(1e-4) * gauss(n=400, d=400)],
    ids=["spread", "nearly equidistant"],
)
def test_worst_float32_errors_hide_no_neighbour(monkeypatch, x):
    """Proposals are replaced by estimates as wrong as the bound allows: neighbours too far, all others too near."""
    k, d = 10, x.shape[1]
    true = brute_force(x, k)[1]

    def proposed(centred, _, width, proof):
        exact = np.square(centred[:, None].astype(np.float64) - centred).sum(axis=2)
        norms = np.linalg.norm(centred.astype(np.float64), axis=1)
        error = 0.99 * (d + 16) * 2.0**-24 * (norms[:, None] + norms) ** 2
        near = np.zeros(exact.shape, bool)
        near[np.arange(400)[:, None], true] = True
        wrong = exact + np.where(near, error, -error)
        columns = np.argsort(wrong, axis=1)[:, :width]
        return np.take_along_axis(wrong, columns, 1).clip(0), columns, proof

    monkeypatch.setattr(search, "proposed", proposed)
    np.testing.assert_array_equal(nearest(x, k).indices, true)


def test_a_scan_of_every_row_is_exact(monkeypatch):
    monkeypatch.setattr(OfProducts, "limit", lambda _, rows, *__: np.full(len(rows), np.inf))
    assert_exact(gauss(), 30)
    assert_exact(np.round(gauss(d=3)), 30)


def test_one_massive_point_costs_the_others_nothing(monkeypatch):
    x = gauss()
    x[5] *= 1e5
    scanned = []
    scan = search.scanned
    monkeypatch.setattr(search, "scanned", lambda *args: scanned.extend(args[2]) or scan(*args))
    assert_exact(x, 30)
    assert set(scanned) <= {5}


def test_float32_is_enough_where_distances_spread(monkeypatch):
    monkeypatch.setattr(search, "scanned", lambda *_: pytest.fail("scanned in float64"))
    assert_exact(gauss(n=1000, d=64), 30)


@pytest.mark.parametrize(
    "x",
    [
        gauss(kind=np.float64) + 1e9,
        gauss() * np.float32(1e-30),
        gauss() * np.float32(1e30),
        gauss(kind=np.float64) * 1e200,
        gauss(kind=np.float64) * 1e-200,
        gauss(d=1),
        gauss(n=31, d=3),
    ],
    ids=["offset", "small", "large", "huge", "minute", "one dimension", "n = k + 1"],
)
def test_any_offset_and_scale(x):
    with np.errstate(over="ignore", under="ignore"):
        size = np.abs(x).max()
        exact = brute_force(x.astype(np.float64) / size, 30)
    found = nearest(x, 30)
    np.testing.assert_array_equal(found.indices, exact[1])
    np.testing.assert_allclose(found.distances / size, exact[0], rtol=1e-6)


def test_tight_clusters_far_apart():
    rng = np.random.default_rng(2)
    x = 1e3 * gauss(n=4, d=64, kind=np.float64)[rng.integers(0, 4, 600)] + 1e-3 * gauss(n=600, d=64, kind=np.float64)
    assert_exact(x, 20)
    assert_exact(x.astype(np.float32), 20)  # some points become equal


@pytest.mark.parametrize("n_distinct", [1, 2, 7, 100, 650])
def test_duplicates(n_distinct):
    x = gauss(d=16)[np.random.default_rng(3).integers(0, n_distinct, 700)]
    assert_exact(x, 30)


def test_point_among_its_copies_excludes_itself():
    found = nearest(np.ones((5, 3)), 3)
    assert found.indices.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
    assert not found.distances.any()


def test_positive_and_negative_zero_are_one_place():
    assert nearest(np.array([[0.0], [1.0], [-0.0], [0.0]]), 2).indices.tolist() == [[2, 3], [0, 2], [0, 3], [0, 2]]


def test_ties_on_a_circle_go_to_the_lowest_index():
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert nearest(x, 2).indices[0].tolist() == [1, 2]


@pytest.mark.parametrize("metric", ["normalised", "cosine"])
def test_points_on_one_ray_are_equal(metric):
    x = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0], [3.0, 6.0, 9.0], [0.1, 0.2, 0.3], [-7.0, -14.0, -21.0]])
    found = nearest(x, 4, metric=metric)
    assert found.indices[[0, 2, 3]].tolist() == [[2, 3, 1, 4], [0, 3, 1, 4], [0, 2, 1, 4]]
    assert not found.distances[0, :2].any()
    assert found.distances[0, 3] == pytest.approx(2.0)


def test_cosine_keeps_the_digits_of_close_vectors():
    angle = 1e-7
    x = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)], [0.0, 1.0]])
    assert nearest(x, 1, metric="cosine").distances[0, 0] == pytest.approx(angle**2 / 2, rel=1e-6)


@pytest.mark.parametrize("kind", [np.float16, np.int8, np.int64])
def test_other_number_types(kind):
    x = np.random.default_rng(4).integers(-9, 9, (200, 5)).astype(kind)
    assert_exact(x, 12)


lattices = arrays(np.float32, st.tuples(st.integers(13, 40), st.integers(1, 4)), elements=st.integers(-2, 2))


@settings(max_examples=150, deadline=None)
@given(lattices, st.integers(1, 12))
def test_ties_and_duplicates_of_any_lattice(x, k):
    assert_exact(x, k)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.sampled_from(METRICS))
def test_permutation_scale_and_translation(seed, log_scale, metric):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, 7))
    order = rng.permutation(60)
    found = nearest(x, 9, metric=metric)
    permuted = nearest(x[order], 9, metric=metric)
    np.testing.assert_array_equal(order[permuted.indices], found.indices[order])
    np.testing.assert_array_equal(permuted.distances, found.distances[order])
    np.testing.assert_array_equal(nearest(x * 10**log_scale, 9, metric=metric).indices, found.indices)
    if metric == "euclidean":
        np.testing.assert_array_equal(nearest(x + rng.standard_normal(7), 9).indices, found.indices)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(METRICS))
def test_rotation(seed, metric):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((80, 12))
    rotation = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    found, rotated = nearest(x, 9, metric=metric), nearest(x @ rotation, 9, metric=metric)
    np.testing.assert_array_equal(rotated.indices, found.indices)
    np.testing.assert_allclose(rotated.distances, found.distances, rtol=1e-10)


def test_mutual_neighbours_are_equally_far():
    x = gauss(n=300, d=33)
    found = nearest(x, 10)
    away = {(i, j): r for i in range(300) for j, r in zip(found.indices[i], found.distances[i], strict=True)}
    mutual = [(r, away[j, i]) for (i, j), r in away.items() if (j, i) in away]
    assert len(mutual) > 100
    assert all(there == back for there, back in mutual)


def test_neighbours_own_their_memory():
    x = gauss(n=50, d=4)
    found = nearest(x, 5)
    assert found.distances.flags.owndata
    assert found.indices.flags.owndata
    assert (found.distances.dtype, found.indices.dtype) == (np.float64, np.int64)
    assert found.first(2).indices.shape == (50, 2)


@pytest.mark.parametrize(
    ("x", "k", "metric", "message"),
    [
        (np.zeros((5, 2)), 5, "euclidean", "5 points have no 5 neighbours each; take k < 5"),
        (np.zeros((5, 2)), 0, "euclidean", "k = 0"),
        (np.zeros(5), 1, "euclidean", r"shape \(n, d\), got float64 of shape \(5,\)"),
        (np.zeros((5, 0)), 1, "euclidean", r"of shape \(5, 0\)"),
        (np.array([["a"], ["b"]]), 1, "euclidean", "must be numbers"),
        (np.array([[0.0], [np.nan], [1.0]]), 1, "euclidean", r"row 1 holds NaN or infinity \(1 of 3"),
        (np.array([[0.0], [1.0], [-np.inf]], np.float32), 1, "cosine", "row 2 holds NaN or infinity"),
        (np.array([[1.0], [0.0], [1.0]]), 1, "cosine", r"row 1 is a zero vector \(1 of 3"),
        (np.array([[1.0], [0.0], [1.0]]), 1, "normalised", "row 1 is a zero vector"),
        (np.zeros((5, 2)), 1, "normalized", "did you mean 'normalised'"),
    ],
)
def test_refuses(x, k, metric, message):
    with pytest.raises(ActstoreError, match=message):
        nearest(x, k, metric=metric)


@pytest.mark.parametrize("k", [0, 6])
def test_refuses_more_neighbours_than_found(k):
    with pytest.raises(ActstoreError, match=f"k = {k}, but 5 neighbours"):
        nearest(gauss(n=20, d=2), 5).first(k)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (1, 9), (5, 60), (150, 150)])
@pytest.mark.parametrize("kind", ["gauss", "copies", "lattice"])
def test_points_of_one_group_are_never_neighbours(sizes, kind):
    """Groups small and large, of points that are near each other, equal, or tied with others."""
    rng = np.random.default_rng(len(kind))
    groups = np.repeat(np.arange(300), rng.integers(sizes[0], sizes[1] + 1, 300))[:300]
    x = rng.standard_normal((300, 8)).astype(np.float32)
    if kind == "copies":
        x = x[groups]
    if kind == "lattice":
        x = rng.integers(0, 3, (300, 4)).astype(np.float32)
    order = rng.permutation(300)
    x, groups = x[order], groups[order] * 7 - 3
    found = nearest(x, 12, groups=groups)
    distances, indices = brute_force(x, 12, groups)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-14)
    assert (groups[found.indices] != groups[:, None]).all()


def test_groups_that_leave_too_few_are_refused():
    with pytest.raises(ActstoreError, match="20 points, 15 of them in one group: these have no 6 neighbours"):
        nearest(gauss(20), 6, groups=np.repeat([0, 1], [15, 5]))
    with pytest.raises(ActstoreError, match=r"20 points but groups of shape \(3,\)"):
        nearest(gauss(20), 6, groups=np.arange(3))


def test_equal_points_are_found_whatever_the_sign_of_their_zeros():
    x = np.array([[0.0, 1.0], [2.0, 0.0], [-0.0, 1.0], [2.0, -0.0], [1.0, 0.0]], np.float32)
    assert firsts(x).tolist() == [0, 1, 0, 1, 4]
