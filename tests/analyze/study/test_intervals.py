"""Intervals hold the truth as often as they say, however many positions a sample has."""

import numpy as np
import pytest

from actstore_analyze.study.intervals import by_sample, wilson
from actstore_analyze.study.neighborhood import BySample

SETS, SAMPLES = 500, 80


def drawn(rng, positions, accuracy):
    """Shares of positions that are right: most of a sample's positions are right together, or wrong together."""
    own = rng.beta(accuracy / 2, (1 - accuracy) / 2, SAMPLES)
    return rng.binomial(positions, own) / positions


@pytest.mark.parametrize(("positions", "accuracy"), [(1, 0.7), (2, 0.7), (256, 0.7), (256, 0.5), (1024, 0.9)])
def test_they_cover_the_truth(positions, accuracy):
    rng = np.random.default_rng(positions)
    intervals = [by_sample(drawn(rng, positions, accuracy)) for _ in range(SETS)]
    covered = np.mean([low <= accuracy <= high for low, high in intervals])
    assert 0.90 <= covered <= 0.98


def test_more_positions_do_not_make_them_narrow():
    rng = np.random.default_rng(0)
    few, many = (
        np.mean([np.diff(by_sample(drawn(rng, positions, 0.7)))[0] for _ in range(100)]) for positions in (4, 1000)
    )
    assert many > 0.8 * few


def test_shares_of_nothing_but_right_have_wilsons():
    assert by_sample(np.ones(30)) == wilson(30, 30)
    assert by_sample(np.zeros(30)) == wilson(0, 30)


def test_the_error_of_overlaps_counts_samples_not_positions():
    """Each of 9 samples at 40 positions that say the same: as if it had been met once."""
    rng = np.random.default_rng(3)
    values, classes = rng.random(9), np.repeat([0, 1], [3, 6])
    met = BySample(9)
    for _ in range(40):
        met.add(np.arange(9), values)
    assert met.error() == pytest.approx(np.std(values, ddof=1) / 3)
    weights = np.where(classes == 0, 1 / 6, 1 / 12)
    mean = (values[:3].mean() + values[3:].mean()) / 2
    expected = np.sqrt(9 / 8 * sum((w * (v - mean)) ** 2 for w, v in zip(weights, values, strict=True)))
    assert met.error(classes) == pytest.approx(expected)
    once = BySample(9)
    once.add(np.arange(9), values)
    assert once.error() is None
