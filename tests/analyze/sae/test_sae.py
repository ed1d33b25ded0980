"""Reconstruction by a sparse autoencoder: golden numbers, scikit-learn, and parts that add up."""

import json
from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import paired_cosine_distances

from actstore.errors import ActstoreError
from actstore_analyze.sae.measure import gaussian_like, reconstruction, rotated, sums

GOLDEN = Path(__file__).parents[2] / "golden" / "sae"


class JumpRelu:
    """Features above their threshold count, as in Gemma Scope."""

    def __init__(self, weights):
        self.weights = weights

    def encode(self, x):
        features = x @ self.weights["W_enc"] + self.weights["b_enc"]
        return np.where(features > self.weights["threshold"], features, 0)

    def decode(self, features):
        return features @ self.weights["W_dec"] + self.weights["b_dec"]


class Scaled:
    """Rebuilds some share of a vector."""

    def __init__(self, share):
        self.share = share

    def encode(self, x):
        return x

    def decode(self, features):
        return self.share * features


ARRAYS = np.load(GOLDEN / "sae.npz")
NUMBERS = json.loads((GOLDEN / "sae.json").read_text())
SAE = JumpRelu({name: ARRAYS[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")})
EXAMPLES = [ARRAYS["x0"], ARRAYS["x1"], ARRAYS["x2"]]


def assert_golden(found, expected):
    assert found.mse == pytest.approx(expected["mse_mean_over_tokens_and_dims"], rel=1e-6)
    assert found.squared_error == pytest.approx(expected["sq_l2_mean_over_tokens"], rel=1e-6)
    assert found.l0 == pytest.approx(expected["l0_count_per_token"], rel=1e-12)
    assert found.l0_fraction == pytest.approx(expected["l0_fraction"], rel=1e-12)


@pytest.mark.parametrize("example", [0, 1, 2])
def test_golden(example):
    assert_golden(reconstruction(EXAMPLES[example], SAE), NUMBERS["per_example"][example])


def test_golden_of_all_tokens():
    assert_golden(reconstruction(np.concatenate(EXAMPLES), SAE), NUMBERS["average_over_all_tokens"])


def test_golden_autoencoder_is_the_golden_one():
    np.testing.assert_array_equal(SAE.encode(EXAMPLES[2]) != 0, ARRAYS["features2"])
    np.testing.assert_allclose(SAE.decode(SAE.encode(EXAMPLES[2])), ARRAYS["recon2"], atol=1e-5)


def test_against_scikit_learn():
    x = np.concatenate(EXAMPLES).astype(np.float64)
    rebuilt = SAE.decode(SAE.encode(x))
    found = reconstruction(x, SAE)
    assert found.n == 53
    assert found.fvu == pytest.approx(1 - r2_score(x, rebuilt, multioutput="variance_weighted"))
    assert found.cosine == pytest.approx(1 - paired_cosine_distances(x, rebuilt).mean())
    lengths = np.linalg.norm(x - rebuilt, axis=1)
    assert found.relative_error == pytest.approx((lengths / np.linalg.norm(x, axis=1)).mean())
    assert found.squared_error == pytest.approx((lengths**2).mean())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(0, 1e6))
def test_parts_add_up_in_any_order_and_grouping(seed, sizes, offset):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((sum(sizes), 5)) + offset
    parts = [sums(part, Scaled(0.9)) for part in np.split(x, np.cumsum(sizes)[:-1])]
    whole = asdict(reconstruction(x, Scaled(0.9)))
    for order in (parts, parts[::-1]):
        assert asdict(reduce(add, order).finish()) == pytest.approx(whole, rel=1e-8, nan_ok=True)
    assert asdict(reconstruction(x, Scaled(0.9), batch=2)) == pytest.approx(whole, rel=1e-8, nan_ok=True)


def test_perfect_mean_and_no_reconstruction():
    x = np.random.default_rng(0).standard_normal((400, 6))
    perfect, none = reconstruction(x, Scaled(1)), reconstruction(x - x.mean(axis=0), Scaled(0))
    assert (perfect.squared_error, perfect.fvu, perfect.relative_error) == (0, 0, 0)
    assert perfect.cosine == pytest.approx(1)
    assert none.fvu == pytest.approx(1)
    assert (none.cosine, none.relative_error) == (0, 1)


def test_variance_of_vectors_far_from_zero():
    x = np.random.default_rng(1).standard_normal((1000, 4)) + 1e7
    found = reconstruction(x, Scaled(1 - 1e-7), batch=10)
    assert found.fvu == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("weight", [1, 1 / 3])
def test_equal_vectors_have_no_variance_to_explain(weight):
    """Whatever their mean is rounded to; what varies a little has one."""
    x = np.tile(np.random.default_rng(0).standard_normal(48).astype(np.float32), (50, 1))
    assert np.isnan(sums(x, Scaled(0.5), np.full(50, weight)).finish().fvu)
    x[0, 0] = np.nextafter(x[0, 0], np.float32(9))
    assert sums(x, Scaled(0.5), np.full(50, weight)).finish().fvu > 1


def test_rotation_keeps_lengths_and_angles():
    x = np.random.default_rng(2).standard_normal((30, 12)).astype(np.float32)
    turned = rotated(x, seed=5)
    np.testing.assert_allclose(turned @ turned.T, x @ x.T, atol=1e-4)
    assert np.abs(turned - x).max() > 0.5
    assert turned.dtype == np.float32
    np.testing.assert_array_equal(turned, rotated(x, seed=5))
    assert (turned != rotated(x, seed=6)).any()


def test_rotations_are_uniform():
    images = np.array([rotated(np.array([[1.0, 0.0, 0.0]]), seed)[0] for seed in range(2000)])
    np.testing.assert_allclose(images.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(images.T), np.eye(3) / 3, atol=0.05)


def test_gaussian_vectors_hardly_depend_on_how_the_covariance_was_rounded():
    x = np.random.default_rng(3).standard_normal((30, 40)) * np.repeat([1, 5], 20)  # fewer than dimensions
    np.testing.assert_allclose(gaussian_like(x, 1), gaussian_like(x[::-1], 1), atol=1e-5)


@pytest.mark.parametrize("n", [5, 4000])
def test_gaussian_like_shares_mean_and_covariance_only(n):
    rng = np.random.default_rng(3)
    x = rng.exponential(size=(n, 8)) @ rng.standard_normal((8, 8)) + 100
    like = gaussian_like(x, seed=1)
    assert like.shape == x.shape
    np.testing.assert_array_equal(like, gaussian_like(x, seed=1))
    if n == 4000:
        np.testing.assert_allclose(like.mean(axis=0), x.mean(axis=0), atol=0.3)
        np.testing.assert_allclose(np.cov(like.T), np.cov(x.T), atol=2)
        skewness = [np.mean(((y - y.mean(axis=0)) / y.std(axis=0)) ** 3, axis=0) for y in (x, like)]
        assert np.abs(skewness[0]).max() > 0.5 > 0.3 > np.abs(skewness[1]).max()
    else:
        directions = np.linalg.matrix_rank(np.concatenate([x, like]) - x.mean(axis=0), tol=1e-5)
        assert directions == 4  # drawn in the affine plane of the five points


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reconstruction(np.ones((0, 3)), Scaled(1)), "0 vectors in batches of 4096"),
        (lambda: reconstruction(np.ones((2, 3)), Scaled(1), batch=0), "2 vectors in batches of 0"),
        (lambda: reconstruction(np.array([[1.0], [np.nan]]), Scaled(1)), "row 1 holds NaN"),
        (lambda: reconstruction(np.array([[1.0], [0.0]]), Scaled(1)), "row 1 is a zero vector"),
        (lambda: reconstruction(np.ones((2, 3)), Scaled(np.ones((2, 1, 1)))), "come back as"),
        (lambda: sums(np.ones((2, 3)), Scaled(1)) + sums(np.ones((2, 4)), Scaled(1)), "sums of 3 dimensions"),
        (lambda: gaussian_like(np.ones((1, 3)), 0), "1 vectors have no covariance"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ActstoreError, match=message):
        call()
