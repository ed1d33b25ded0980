"""Intervals hold the truth as often as they say, however many positions a sample has."""

import numpy as np
import pytest

from actstore_analyze.study.intervals import by_sample, wilson

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
