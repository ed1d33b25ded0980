"""Clusters: DADApy's labels one by one, the procedure as a plain loop, scikit-learn's homogeneity."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import HDBSCAN
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, homogeneity_completeness_v_measure

from actstore.errors import ActstoreError
from actstore_analyze.cluster.density import knn_log_density
from actstore_analyze.cluster.measure import density_peaks, density_peaks_from, hdbscan, homogeneity
from actstore_analyze.neighbors import nearest

GOLDEN = Path(__file__).parents[2] / "golden" / "adp"
SETS = [
    ("gmm", "euclidean"),
    ("gmm", "normalised"),
    ("gmm", "cosine_k16"),
    ("modality_a", "normalised"),
    ("modality_a", "cosine_k16"),
    ("uniform", "euclidean"),
]
ZS = ["0.5", "1.2", "1.65", "3.0"]


def options(variant):
    if variant == "cosine_k16":
        return {"metric": "cosine", "k": 16, "maxk": 128}
    return {"metric": variant, "k": 15, "maxk": 100}


@pytest.mark.parametrize("z", ZS)
@pytest.mark.parametrize(("name", "variant"), SETS)
def test_density_peaks_golden(name, variant, z):
    golden = np.load(GOLDEN / f"{name}.npz")
    found = density_peaks(golden["x"], z=float(z), **options(variant))
    with_halo = density_peaks(golden["x"], z=float(z), halo=True, **options(variant))
    np.testing.assert_array_equal(found.labels, golden[f"{variant}_Z{z}_labels"])
    np.testing.assert_array_equal(with_halo.labels, golden[f"{variant}_Z{z}_halo"])
    np.testing.assert_array_equal(found.centers, golden[f"{variant}_Z{z}_centers"])
    np.testing.assert_allclose(found.border_log_density, golden[f"{variant}_Z{z}_borders"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.log_density, golden[f"{variant}_log_density"], rtol=0, atol=1e-6)
    assert found.dimension == pytest.approx(golden[f"{variant}_ids"][3], rel=1e-6)


@pytest.mark.parametrize("z", ZS)
@pytest.mark.parametrize(("name", "variant"), SETS)
def test_homogeneity_golden(name, variant, z):
    golden = np.load(GOLDEN / f"{name}.npz")
    expected = json.loads((GOLDEN / "homogeneity.json").read_text())[name][variant][z]
    labels, y = golden[f"{variant}_Z{z}_labels"], golden["y"]
    every, large = homogeneity(y, labels, min_size=1), homogeneity(y, labels)
    without_halo = homogeneity(y, golden[f"{variant}_Z{z}_halo"], min_size=1)
    for found, key in [(every, "every"), (large, "large"), (without_halo, "without_halo")]:
        assert (found.homogeneity, found.completeness, found.v) == pytest.approx(expected[key], abs=1e-12)
    assert every.kept == 1.0
    assert large.kept == expected["kept"] / len(y)


@pytest.mark.parametrize("z", ZS)
def test_heavily_tied_digits(z):
    found = density_peaks(load_digits().data / 16, z=float(z), metric="euclidean")
    assert adjusted_rand_score(np.load(GOLDEN / "digits_ties.npz")[f"Z{z}"], found.labels) >= 0.99


def plain_density_peaks(log_density, near, k, z):
    """The procedure of the paper, point by point and pair by pair."""
    n, error = len(log_density), k**-0.5
    labels = np.full(n, -1)
    centers = [i for i in range(n) if all(log_density[i] >= log_density[j] for j in near[i, :k])]
    for cluster, center in enumerate(centers):
        labels[center] = cluster
    for i in sorted(range(n), key=lambda i: (-log_density[i], i)):
        if labels[i] < 0:
            labels[i] = next(labels[j] for j in near[i, :k] if labels[j] >= 0)
    saddles = {}
    for p in set(range(n)) - set(centers):
        q = next((j for j in near[p, :k] if labels[j] != labels[p]), None)
        first = p if q is None else next((j for j in near[q] if labels[j] == labels[p]), p)
        if q is not None and first == p:
            pair = frozenset((int(labels[p]), int(labels[q])))
            saddles[pair] = max(saddles.get(pair, -np.inf), log_density[p])
    alive = set(range(len(centers)))
    while True:
        low = [
            (-height, *sorted(pair))
            for pair, height in saddles.items()
            if min(log_density[centers[c]] for c in pair) - height < 2 * z * error
        ]
        if not low:
            break
        _, i, j = min(low)
        keep, lose = (i, j) if log_density[centers[i]] >= log_density[centers[j]] else (j, i)
        labels[labels == lose] = keep
        alive.discard(lose)
        old, saddles = saddles, {}
        for pair, height in old.items():
            pair = frozenset(keep if c == lose else c for c in pair)
            if len(pair) == 2:
                saddles[pair] = max(saddles.get(pair, -np.inf), height)
    survivors = sorted(alive)
    borders = np.full((len(survivors), len(survivors)), -np.inf)
    for pair, height in saddles.items():
        i, j = (survivors.index(c) for c in pair)
        borders[i, j] = borders[j, i] = height
    return np.searchsorted(survivors, labels), np.array(centers)[survivors], borders


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 12), st.floats(0, 3), st.booleans())
def test_density_peaks_as_the_plain_procedure(seed, k, z, tied):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((250, 2)) + rng.integers(0, 3, (250, 1)) * 2
    found = nearest(np.round(x, 1) if tied else x, 40)
    clusters = density_peaks_from(found, z=z, k=k, dimension=2.0)
    labels, centers, borders = plain_density_peaks(knn_log_density(found, 2.0, k), found.indices, k, z)
    np.testing.assert_array_equal(clusters.labels, labels)
    np.testing.assert_array_equal(clusters.centers, centers)
    np.testing.assert_array_equal(clusters.border_log_density, borders)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_labels_follow_the_points(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((300, 3)) + 4 * rng.integers(0, 3, (300, 1))
    order = rng.permutation(300)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    labels = density_peaks(x, metric="euclidean").labels
    moved = density_peaks(5 * x[order] @ rotation + 2, metric="euclidean").labels
    assert adjusted_rand_score(labels[order], moved) >= 0.999  # equal densities go by the index


def blobs(centers, n=150, d=3, seed=0):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.standard_normal((n, d)) + center for center in centers])
    return x, np.repeat(np.arange(len(centers)), n)


def test_separate_blobs_are_the_clusters():
    x, y = blobs([0, 20, 60])
    found = density_peaks(x, metric="euclidean")
    assert adjusted_rand_score(y, found.labels) == 1.0
    assert np.isinf(found.border_log_density).all()
    assert found.labels[found.centers].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(found.labels, density_peaks(x, metric="euclidean", halo=True).labels)


def test_confidence_merges():
    x = np.random.default_rng(1).random((800, 2))
    counts = [len(density_peaks(x, metric="euclidean", z=z).centers) for z in (0, 0.5, 1, 2, 4)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 1


def test_halo_is_less_dense_than_the_border():
    x, _ = blobs([0, 3], d=2)
    found = density_peaks(x, metric="euclidean", halo=True, z=0.5)
    assert len(found.centers) > 1
    highest = found.border_log_density.max()
    assert (found.labels == -1).any()
    assert (found.log_density[found.labels == -1] < highest).all()


def test_few_points():
    found = density_peaks(np.random.default_rng(2).random((20, 2)), k=5, metric="euclidean")
    assert len(found.labels) == 20


def test_hdbscan_as_scikit_learn():
    x, _ = blobs([0, 6, 14], seed=3)
    found = hdbscan(x, min_cluster_size=30, min_samples=10, metric="euclidean")
    oracle = HDBSCAN(min_cluster_size=30, min_samples=11, copy=True).fit(x)  # scikit-learn counts the point itself
    assert adjusted_rand_score(oracle.labels_, found.labels) > 0.99
    assert found.labels[found.centers].tolist() == [0, 1, 2]


def test_hdbscan_of_directions():
    x, y = blobs([[9, 0, 0], [0, 9, 0]], seed=4)
    stretched = x * np.random.default_rng(5).uniform(1, 100, (len(x), 1))
    found = hdbscan(stretched, min_samples=5)
    assert homogeneity(y, found.labels).homogeneity == 1.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hdbscan_does_not_hang_on_the_order_of_rows(seed):
    """Points of a lattice, most of whose distances are tied."""
    rng = np.random.default_rng(seed)
    x = np.unique(rng.integers(-6, 6, (160, 3)), axis=0).astype(np.float64)
    first = hdbscan(x, min_cluster_size=4, min_samples=2, metric="euclidean").labels
    assert first.max() >= 1
    for _ in range(5):
        order = rng.permutation(len(x))
        again = hdbscan(x[order], min_cluster_size=4, min_samples=2, metric="euclidean").labels
        assert again.tolist() == first[order].tolist()


def test_hdbscan_finds_noise_only():
    found = hdbscan(np.random.default_rng(6).random((30, 2)))
    assert set(found.labels.tolist()) == {-1}
    assert found.centers.shape == (0,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=80))
def test_homogeneity_as_scikit_learn(pairs):
    truth, labels = map(list, zip(*pairs, strict=True))
    found = homogeneity(truth, labels, min_size=1)
    expected = homogeneity_completeness_v_measure(truth, labels)
    assert (found.homogeneity, found.completeness, found.v, found.kept) == pytest.approx((*expected, 1.0))


def test_homogeneity_formula():
    truth, labels = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    within = 0.5 * -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    overall = -(1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3))
    assert homogeneity(truth, labels, min_size=1).homogeneity == pytest.approx(1 - within / overall)


def test_small_clusters_and_noise_are_left_out():
    truth = ["a"] * 60 + ["b"] * 60 + ["a", "b"] * 10 + ["b"] * 10
    labels = [0] * 60 + [1] * 60 + [2] * 20 + [-1] * 10
    found = homogeneity(truth, labels)
    assert (found.homogeneity, found.kept) == (1.0, 120 / 150)
    assert homogeneity(truth, labels, min_size=1).homogeneity < 1
    assert homogeneity(truth, labels, min_size=1).kept == 140 / 150


def test_nothing_left_to_score():
    found = homogeneity([0, 1], [0, 0])
    assert np.isnan([found.homogeneity, found.completeness, found.v]).all()
    assert found.kept == 0.0


X = np.random.default_rng(7).random((60, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: density_peaks(X[:10]), "10 points have no 15 neighbours"),
        (lambda: density_peaks(X, k=30, maxk=20), "k = 30, but 20 neighbours"),
        (lambda: density_peaks(np.ones((60, 3))), "no intrinsic dimension"),
        (lambda: density_peaks(X, metric="manhattan"), "metric 'manhattan'"),
        (lambda: density_peaks(X[:16], k=5), "15 neighbours are too few for the intrinsic dimension at rank 16"),
        (lambda: hdbscan(X, metric="cosine"), "metric 'cosine': HDBSCAN takes normalised or euclidean"),
        (lambda: hdbscan(X, min_cluster_size=1), "min_cluster_size = 1"),
        (lambda: hdbscan(X[:1]), "1 points cannot be clustered"),
        (lambda: hdbscan(np.zeros((60, 3))), "row 0 is a zero vector"),
        (lambda: homogeneity([0, 1], [0]), r"shape \(2,\), clusters of shape \(1,\)"),
        (lambda: homogeneity([], []), "give one per point"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ActstoreError, match=message):
        call()
