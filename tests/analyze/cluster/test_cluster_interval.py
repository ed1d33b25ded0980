"""Intervals of clusters: of halves with as many clusters, and of clusters that hold one label each."""

import numpy as np
import pytest

from actstore_analyze.cluster.measure import (
    ENOUGH,
    agreement_of_halves,
    bounds,
    density_peaks_from,
    homogeneity,
    lowest,
)
from actstore_analyze.neighbors import nearest
from actstore_analyze.study.intervals import FEW, of_halves, share, student, wilson


def drawn(seed, n, apart):
    """Neighbours, labels and clusters."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    found = nearest(rng.standard_normal((n, 3)) + apart * np.eye(3)[y], n // 2)
    return found, y, density_peaks_from(found.first(100)).labels


def numbers(found, n):
    """Clusters of each half."""
    rng = np.random.default_rng(0)
    halves = [np.sort(rng.permutation(n)[: n // 2]) for _ in range(FEW)]
    return np.array([len(np.unique(density_peaks_from(found.among(half, 100)).labels)) for half in halves])


def test_halves_with_another_number_of_clusters_are_left_out():
    found, y, labels = drawn(1, 400, 3.4)
    each = numbers(found, 400)
    others = each != len(np.unique(labels))
    assert 0 < others.sum() <= FEW - ENOUGH
    values = agreement_of_halves(found, y, labels, density_peaks_from, k=15, min_size=1)
    assert np.isnan(values).all(axis=1).tolist() == others.tolist()
    many = np.arange(400) % 40  # as if the whole had forty clusters, which no half has
    assert not np.isnan(agreement_of_halves(found, y, many, density_peaks_from, k=15, min_size=1)).any()


def test_the_spread_is_that_of_the_halves_that_are_left():
    values = np.full(FEW, np.nan)
    values[:ENOUGH] = [0.8, 0.82, 0.85, 0.79, 0.9]
    error = np.std(values[:ENOUGH], ddof=1)
    assert of_halves(values, 300, ENOUGH) == pytest.approx(error)
    assert bounds(0.8, values, np.arange(300) % 3) == pytest.approx(share(0.8, error, 300, student(values)))
    values[0] = np.nan
    assert bounds(0.8, values, np.arange(300) % 3) == (None, None)


def test_of_one_label_in_each_cluster_some_may_be_wrong():
    """Wilson's interval of none of n allows 3.8 of them; Fano's bound is reached where they are spread evenly."""
    y, rng = np.repeat([0, 1, 2], 100), np.random.default_rng(0)
    for _ in range(20):
        clusters = y.copy()
        clusters[rng.permutation(300)[:3]] = rng.integers(0, 3, 3)
        assert homogeneity(y, clusters, min_size=1).homogeneity >= lowest(y)
    clusters = y.copy()
    clusters[[0, 1, 100, 101, 200, 201]] = [1, 2, 0, 2, 0, 1]
    assert homogeneity(y, clusters).homogeneity < lowest(y) < wilson(300, 300)[0]
    assert bounds(1 - 1e-15, np.ones(FEW), y) == (lowest(y), 1.0)
    assert bounds(1.0, np.ones(FEW), np.where(np.arange(300) < 90, -1, y))[0] < lowest(y)
    assert lowest(np.zeros(9)) == 1.0
