"""Intervals of label overlap: samples are left out, each with its part in what others count."""

import numpy as np
import pytest

from actstore_analyze.knockout.differences import left
from actstore_analyze.neighbors import nearest
from actstore_analyze.overlap.measure import label_overlap, label_overlap_without
from actstore_analyze.study.intervals import jackknifed

SETS = 500


def drawn(seed, n, d, apart):
    """Vectors (n, d) of three classes and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return (rng.standard_normal((n, d)) + apart * np.eye(max(d, 3), d)[y]).astype(np.float32), y


def test_without_each_point_those_whose_neighbour_it_is_have_one_fewer():
    x, y = drawn(4, 25, 3, 1.5)
    x[3] = x[7]  # ties go to the lower index
    near = nearest(x, 4).indices.tolist()
    expected = [
        np.mean([np.mean([y[j] == y[own] for j in near[own] if j != i]) for own in range(25) if own != i])
        for i in range(25)
    ]
    assert label_overlap_without(nearest(x, 5), y) == pytest.approx(expected, abs=1e-12)


def test_of_a_single_neighbour_the_next_takes_its_place():
    x, y = drawn(1, 25, 3, 1.5)
    x[3] = x[7]
    expected = [label_overlap(np.delete(x, i, axis=0), np.delete(y, i), 1) for i in range(len(x))]
    assert label_overlap_without(nearest(x, 2), y) == pytest.approx(expected, abs=1e-12)


def test_intervals_at_the_ends_are_wilsons():
    assert jackknifed(1.0, np.ones(20))[0] == pytest.approx(0.8389, abs=1e-4)
    low, high = jackknifed(0.97, np.full(20, 0.97) + np.linspace(-0.01, 0.01, 20))
    assert 0 < low < 0.97 < high < 1


def test_where_all_others_are_neighbours_there_is_no_interval():
    x, y = drawn(0, 7, 3, 0.5)
    assert left("none", [], [(x, y)], 4).without is not None
    assert left("none", [], [(x, y)], 5).interval == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "d", "apart", "most"),
    [(60, 5, 2.0, 0.98), (200, 5, 2.0, 0.98), (200, 5, 3.6, 0.98), (150, 3, 0.0, 1.0)],
)
def test_intervals_hold_the_overlap_to_expect(n, d, apart, most):
    """Of 500 data sets; where labels are drawn at random the interval is too wide, never too narrow."""
    values, ends = [], []
    for seed in range(SETS):
        x, y = drawn(seed, n, d, apart)
        value = label_overlap(x, y, 10)
        values.append(value)
        ends.append(jackknifed(value, label_overlap_without(nearest(x, 11), y)))
    truth, (low, high) = np.mean(values), np.transpose(ends)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.90 <= covered <= most
