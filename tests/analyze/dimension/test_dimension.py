"""Intrinsic dimension and density: DADApy's numbers, a naive likelihood, manifolds of known dimension."""

from math import gamma, pi
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.errors import ActstoreError
from actstore_analyze.cluster.density import knn_log_density
from actstore_analyze.dimension.measure import gride, gride_from
from actstore_analyze.neighbors import Neighbors, nearest

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("name", ["gr2_linear", "gr20_linear"])
def test_gride_golden_from_distances(name):
    golden = np.load(GOLDEN / "gride" / f"{name}.npz")
    distances = np.full((1500, 128), np.nan)
    distances[:, golden["ranks"] - 1] = golden["distances"]
    found = gride_from(Neighbors(distances, np.zeros((1500, 128), np.int64)))
    assert found["rank"].to_list() == [2, 4, 8, 16, 32, 64, 128]
    np.testing.assert_allclose(found["id"], golden["ids"], rtol=1e-6)
    np.testing.assert_allclose(found["error"], golden["errs"], rtol=1e-6)
    np.testing.assert_allclose(found["distance"], golden["rs"], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("gmm", "euclidean"),
        ("gmm", "normalised"),
        ("gmm", "cosine_k16"),
        ("modality_a", "normalised"),
        ("modality_a", "cosine_k16"),
        ("uniform", "euclidean"),
    ],
)
def test_golden_from_points(name, variant):
    golden = np.load(GOLDEN / "adp" / f"{name}.npz")
    metric, k = (variant.removesuffix("_k16"), 16) if variant.endswith("_k16") else (variant, 15)
    found = nearest(golden["x"], 128, metric=metric)
    ids = gride_from(found)["id"].to_numpy()
    np.testing.assert_allclose(ids, golden[f"{variant}_ids"], rtol=1e-6)
    np.testing.assert_allclose(gride(golden["x"], metric=metric)["id"], ids, rtol=0)
    expected = golden[f"{variant}_log_density"]
    np.testing.assert_allclose(knn_log_density(found, ids[3], k), expected, rtol=0, atol=1e-6)


def log_likelihood(ratios, rank, dimension):
    """Of the ratio of the distances of neighbours at rank and at half of it, as the paper states the density."""
    half = rank // 2
    powers = ratios**-dimension
    return np.sum(np.log(dimension) + (half - 1) * np.log1p(-powers) - (half * dimension + 1) * np.log(ratios))


@pytest.mark.parametrize("rank", [2, 8])
def test_dimension_is_the_likeliest(rank):
    x = np.random.default_rng(0).standard_normal((400, 3))
    found = nearest(x, rank)
    ratios = found.distances[:, rank - 1] / found.distances[:, rank // 2 - 1]
    ratios = ratios[ratios < np.percentile(ratios, 50) + 20 * np.diff(np.percentile(ratios, [50, 95]))]
    grid = np.linspace(1, 6, 5001)
    best = grid[np.argmax([log_likelihood(ratios, rank, d) for d in grid])]
    # The slope that is set to 0 counts n - 1 points where the likelihood counts n.
    assert gride(x, range_max=rank)["id"][-1] == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_dimension_of_a_linear_manifold(dimension):
    rng = np.random.default_rng(dimension)
    x = rng.standard_normal((2000, dimension)) @ rng.standard_normal((dimension, 40))
    row = gride(x.astype(np.float32), range_max=16).row(3, named=True)
    assert row["id"] == pytest.approx(dimension, rel=0.1)
    assert 0 < row["error"] < 0.1 * dimension


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-4, 4))
def test_dimension_knows_no_scale_order_or_direction(seed, log_scale):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 5))
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    moved = 10**log_scale * (x[rng.permutation(200)] @ rotation) + 1
    ids, moved_ids = (gride(points, range_max=32)["id"].to_numpy() for points in (x, moved))
    np.testing.assert_allclose(moved_ids, ids, rtol=1e-6)


def test_cosine_halves_the_dimension():
    x = np.random.default_rng(1).standard_normal((500, 6))
    cosine, chord = (gride(x, metric=metric)["id"].to_numpy() for metric in ("cosine", "normalised"))
    np.testing.assert_allclose(2 * cosine, chord, rtol=1e-6)


def test_points_that_coincide_have_no_dimension():
    found = gride(np.ones((50, 4)), range_max=8)
    assert found["id"].to_list() == found["error"].to_list() == [None, None, None]


def test_some_duplicates_spoil_no_scale_beyond_them():
    x = np.random.default_rng(2).standard_normal((600, 2))
    x[:60] = x[60:120]
    found = gride(x, range_max=16)
    assert found["id"].is_null().sum() == 0
    assert found["id"][-1] == pytest.approx(2, rel=0.15)


def test_ranks_end_with_the_points():
    assert gride(np.random.default_rng(3).random((20, 2)))["rank"].to_list() == [2, 4, 8, 16]


def test_density_formula():
    x = np.random.default_rng(4).random((300, 2))
    found = nearest(x, 20)
    for k, d in [(5, 2.0), (20, 3.7)]:
        ball = pi ** (d / 2) / gamma(d / 2 + 1) * found.distances[:, k - 1] ** d
        np.testing.assert_allclose(np.exp(knn_log_density(found, d, k)), k / (300 * ball), rtol=1e-12)


def test_density_of_a_uniform_square():
    inside = np.random.default_rng(5).random((4000, 2))
    density = np.exp(knn_log_density(nearest(inside, 50), 2, 50))
    assert np.median(density) == pytest.approx(1, rel=0.05)


def test_density_of_duplicates_is_finite():
    assert np.isfinite(knn_log_density(nearest(np.ones((9, 2)), 3), 2, 3)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gride(np.zeros((9, 2)), range_max=1), "ranks up to 1 of 1 known neighbours"),
        (lambda: gride(np.zeros((2, 2))), "ranks up to 128 of 1 known neighbours"),
        (lambda: gride(np.full((9, 2), np.nan)), "NaN or infinity"),
        (lambda: knn_log_density(nearest(np.eye(4), 2), 0, 2), "dimension 0 is not a positive number"),
        (lambda: knn_log_density(nearest(np.eye(4), 2), float("nan"), 2), "dimension nan"),
        (lambda: knn_log_density(nearest(np.eye(4), 2), 1, 3), "k = 3, but 2 neighbours"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ActstoreError, match=message):
        call()
