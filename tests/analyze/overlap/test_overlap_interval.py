"""Intervals of label overlap: samples are left out, each with its part in what others count, and pairs count once."""

import numpy as np
import pytest

from actstore_analyze.knockout.differences import left, of_overlaps
from actstore_analyze.neighbors import nearest
from actstore_analyze.overlap.measure import known_for_interval, label_overlap_from, label_overlap_without
from actstore_analyze.study.intervals import LeftOut, jackknifed, left_out
from labelled import overlaps_left


def drawn(seed, n, d, apart, classes=3):
    """Vectors (n, d) of classes and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return (rng.standard_normal((n, d)) + apart * np.eye(max(d, classes), d)[y]).astype(np.float32), y


def found(x, y, k):
    """The overlap, and what it is with each sample left out."""
    near = nearest(x, known_for_interval(len(x), k))
    return label_overlap_from(near.first(k), y).mean(), label_overlap_without(near, y, k)


@pytest.mark.parametrize(("n", "k"), [(25, 3), (25, 1), (25, 12), (8, 5), (6, 3)])
def test_the_place_of_one_that_is_left_out_is_taken_by_the_mean_of_the_others(n, k):
    x, y = drawn(4, n, 3, 1.5)
    x[3] = x[5]  # ties go to the lower index
    own, expected = found(x, y, k)[1], overlaps_left(x, y, k)
    assert own.without == pytest.approx(expected.without, abs=1e-12)
    assert own.pairs == pytest.approx(expected.pairs, abs=1e-6)


def test_of_at_least_ten_neighbours_those_that_lose_one_have_the_others():
    x, y = drawn(1, 40, 3, 1.5)
    near = nearest(x, 12).indices.tolist()
    expected = [
        np.mean([np.mean([y[j] == y[own] for j in near[own] if j != i]) for own in range(40) if own != i])
        for i in range(40)
    ]
    assert found(x, y, 12)[1].without == pytest.approx(expected, abs=1e-12)


def test_squares_of_signed_sums_are_those_of_pairs_on_average():
    x, y = drawn(2, 60, 3, 1.0)
    near, k = nearest(x, 10), 4
    alike = (y[near.indices] == y[:, None]).astype(float)
    beyond = np.zeros((60, 60))
    for i in range(60):
        for at in range(k):
            beyond[i, near.indices[i, at]] += alike[i, at] - np.delete(alike[i], at).mean()
    of_pairs = 0.9 * np.square(np.triu(beyond + beyond.T)).sum() / (60 * k) ** 2
    assert np.square(found(x, y, k)[1].pairs).mean() == pytest.approx(of_pairs, rel=0.15)


@pytest.mark.parametrize("k", [1, 2, 10])
def test_of_random_labels_half_of_what_the_jackknife_finds_is_counted_twice(k):
    """Given the neighbours, the variance is known: labels of different samples are alike in pairs, independently."""
    x, _ = drawn(0, 150, 3, 0.0)
    near = nearest(x, 10)
    edges = np.zeros((150, 150))
    np.add.at(edges, (np.arange(150)[:, None], near.indices[:, :k]), 1 / (150 * k))
    known = np.square(np.triu(edges + edges.T)).sum() * 2 / 9
    labels = [np.random.default_rng(seed).integers(0, 3, 150) for seed in range(200)]
    each = [label_overlap_without(near, y, k) for y in labels]
    assert 0.95 < np.mean([one.error() ** 2 for one in each]) / known < 1.3
    assert np.mean([left_out(one.without) ** 2 for one in each]) / known > 2


def test_intervals_at_the_ends_are_wilsons():
    assert jackknifed(1.0, LeftOut(np.ones(20)))[0] == pytest.approx(0.8389, abs=1e-4)
    low, high = jackknifed(0.97, LeftOut(np.full(20, 0.97) + np.linspace(-0.01, 0.01, 20)))
    assert 0 < low < 0.97 < high < 1


def test_no_more_than_half_is_counted_twice():
    without = np.linspace(-0.01, 0.01, 20)
    assert LeftOut(without, np.ones(3)).error() == pytest.approx(left_out(without) / np.sqrt(2))


def test_where_all_others_are_neighbours_there_is_no_interval():
    x, y = drawn(0, 7, 3, 0.5)
    assert left("none", [], [(x, y)], 4).left is not None
    assert left("none", [], [(x, y)], 5).interval == (None, None)


def test_differences_do_not_depend_on_the_order_of_samples():
    x, y = drawn(3, 50, 3, 1.0)
    names, noise = [f"s{i:02}" for i in range(50)], np.random.default_rng(1).standard_normal((50, 3))
    plain = left("none", names, [(x, y)], 3)
    order = np.random.default_rng(2).permutation(50)
    ends = [
        of_overlaps([plain, left("eoi", [names[i] for i in at], [((x + noise)[at], y[at])], 3)]).row(0)[2:]
        for at in (np.arange(50), order)
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)
