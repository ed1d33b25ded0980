"""Neighbourhood overlap against golden values, a naive count and what chance gives."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from actstore.errors import ActstoreError
from actstore_analyze.neighbors import nearest
from actstore_analyze.overlap.measure import (
    chance_level,
    data_chance_level,
    data_overlap,
    label_overlap,
    label_overlap_from,
    label_overlap_per_point,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "overlap"
NAMES = ["ov1_gauss", "ov2_lattice_ties"]
METRICS = ["euclidean", "normalised", "cosine"]
KS = [1, 5, 10, 30, 100]


def golden(name):
    return np.load(GOLDEN / f"{name}.npz"), json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", NAMES)
def test_label_overlap_golden(name, metric, k):
    arrays, numbers = golden(name)
    expected = numbers["label_overlap"][metric][str(k)]
    for weights, key in [("uniform", "unweighted"), ("class", "class_weighted")]:
        value = label_overlap(arrays["x"], arrays["y"], k, metric=metric, weights=weights)
        assert value == pytest.approx(expected[f"strict_{key}"], abs=1e-12)
        low, high = expected[f"envelope_{key}"]
        assert low - 1e-12 <= value <= high + 1e-12


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", NAMES)
def test_data_overlap_golden(name, metric, k):
    arrays, numbers = golden(name)
    expected = numbers["data_overlap"][metric][str(k)]
    assert data_overlap(arrays["x"], arrays["z"], k, metric=metric) == pytest.approx(expected, abs=1e-12)


def test_against_a_naive_count():
    rng = np.random.default_rng(0)
    x, z, y = rng.standard_normal((150, 9)), rng.standard_normal((150, 4)), rng.integers(0, 4, 150)
    of_x, of_z = (NearestNeighbors(n_neighbors=7).fit(points).kneighbors()[1] for points in (x, z))
    per_point = [sum(y[j] == y[i] for j in of_x[i]) / 7 for i in range(150)]
    np.testing.assert_allclose(label_overlap_per_point(x, y, 7), per_point, rtol=1e-14)
    np.testing.assert_allclose(label_overlap_from(nearest(x, 7), y), per_point, rtol=1e-14)
    assert label_overlap(x, y, 7) == pytest.approx(np.mean(per_point))
    of_classes = [np.mean([per_point[i] for i in range(150) if y[i] == c]) for c in range(4)]
    assert label_overlap(x, y, 7, weights="class") == pytest.approx(np.mean(of_classes))
    common = [len(set(of_x[i]) & set(of_z[i])) / 7 for i in range(150)]
    assert data_overlap(x, z, 7) == pytest.approx(np.mean(common))


def test_perfect_and_no_overlap():
    x = np.concatenate([np.zeros((40, 3)), np.ones((40, 3))]) + 1e-3 * np.random.default_rng(1).random((80, 3))
    assert label_overlap(x, np.repeat(["cat", "dog"], 40)) == 1.0
    assert label_overlap(x, np.arange(80)) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_invariances(seed):
    rng = np.random.default_rng(seed)
    x, z, y = rng.standard_normal((50, 6)), rng.standard_normal((50, 3)), rng.integers(0, 3, 50)
    order = rng.permutation(50)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    value = label_overlap(x, y, 5)
    assert label_overlap(x[order], y[order], 5) == pytest.approx(value)
    assert label_overlap(3 * x @ rotation + 1, y, 5) == pytest.approx(value)
    assert label_overlap(x, 7 - y, 5) == value
    assert data_overlap(x, z, 5) == data_overlap(z, x, 5)
    assert data_overlap(x, 2 * x @ rotation - 3, 5) == 1.0


@pytest.mark.parametrize("weights", ["uniform", "class"])
def test_random_neighbours_reach_the_chance_level(weights):
    rng = np.random.default_rng(2)
    y = np.repeat(np.arange(4), [400, 200, 150, 50])
    value = np.mean(
        [label_overlap(rng.standard_normal((800, 40)), rng.permutation(y), weights=weights) for _ in range(8)]
    )
    assert value == pytest.approx(chance_level(y, weights=weights), abs=0.01)


def test_chance_level_is_exact_over_all_relabellings():
    x, y = np.array([[0.0], [1.0], [3.0], [7.0], [15.0]]), np.array([0, 0, 0, 1, 1])
    rolls = [np.roll(order, shift) for order in ([0, 1, 2, 3, 4], [0, 2, 4, 1, 3]) for shift in range(5)]
    assert np.mean([label_overlap(x, y[roll], k=1) for roll in rolls]) == pytest.approx(chance_level(y))
    assert chance_level(y) == pytest.approx((3 * 2 + 2 * 1) / 5 / 4)


def test_class_weights_equal_uniform_for_balanced_classes():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((90, 5)), np.tile([0, 1, 2], 30)
    assert label_overlap(x, y, 10, weights="class") == pytest.approx(label_overlap(x, y, 10))


X = np.random.default_rng(4).standard_normal((40, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_overlap(X, np.zeros(39)), r"40 points but labels of shape \(39,\)"),
        (lambda: label_overlap(X, [None] + ["a"] * 39), r"point 0 has no label \(1 of 40"),
        (lambda: label_overlap(X, np.full(40, np.nan)), r"point 0 has no label \(40 of 40"),
        (lambda: label_overlap(X, np.zeros(40), weights="classes"), "weights 'classes' are not one of uniform, class"),
        (lambda: label_overlap(X[:30], np.zeros(30)), "30 points have no 30 neighbours"),
        (lambda: data_overlap(X, X[1:]), "40 points in one representation but 39 in the other"),
        (
            lambda: data_chance_level(3, 1, groups=np.zeros(3, int)),
            "3 of them in one group: these have no 1 ",
        ),
        (lambda: chance_level(["a"]), "1 labels: the chance level needs at least two points"),
        (lambda: chance_level([0, 1], weights="none"), "weights 'none'"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ActstoreError, match=message):
        call()
