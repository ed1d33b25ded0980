"""95 % intervals hold what is to be expected in 90 to 98 % of simulated data sets, measure by measure.

What is to be expected is the mean over the data sets, of clusters over those that have as many: an interval says what
other samples would have given, not how far a measure is from what it means. docs/reference/measures.md has the figures
of 500 data sets each.
"""

import numpy as np
import polars as pl
import pytest

from actstore_analyze.cka import Sums
from actstore_analyze.cka.measure import bounds as cka_bounds
from actstore_analyze.cka.measure import centred
from actstore_analyze.cluster.measure import agreement_of_halves, density_peaks_from, homogeneity
from actstore_analyze.cluster.measure import bounds as cluster_bounds
from actstore_analyze.dimension.measure import gride_from
from actstore_analyze.gap.measure import bounds, cosine_counts, median_without, quartiles, shares
from actstore_analyze.knockout.differences import left
from actstore_analyze.neighbors import nearest
from actstore_analyze.overlap.measure import (
    data_overlap_from,
    known_for_interval,
    label_overlap_from,
    label_overlap_without,
)
from actstore_analyze.probe.measure import FOLDED, asked_folded, asked_held_out
from actstore_analyze.sae.formats import JumpRelu
from actstore_analyze.sae.measure import apart
from actstore_analyze.sae.parts import Parts, part_of
from actstore_analyze.study.intervals import (
    LeftOut,
    by_sample,
    difference,
    halves,
    jackknifed,
    left_out,
    normal,
    of_halves,
    of_mean,
    paired,
    positive,
    reach,
    share,
)

HALF = JumpRelu(
    {
        "W_enc": np.eye(6, dtype=np.float32),
        "W_dec": 0.8 * np.eye(6, dtype=np.float32),
        **dict.fromkeys(("b_enc", "b_dec"), np.zeros(6, np.float32)),
        "threshold": np.full(6, 0.3, np.float32),
    }
)


def data_overlap(rng, n, noise):
    """A value and its interval, as all of these: here of vectors, and of the same with noise."""
    x = rng.standard_normal((n, 5))
    both = [nearest(one, min(reach(10), n - 1)) for one in (x, x + noise * rng.standard_normal((n, 5)))]
    value = float(data_overlap_from(*(side.first(10) for side in both)).mean())
    found = halves(lambda chosen: data_overlap_from(*(side.among(chosen, 10) for side in both)).mean(), n)
    return value, *share(value, of_halves(found, n), n)


def overlap(rng, n, d, apart, k, classes=3):
    y = rng.integers(0, classes, n)
    x = rng.standard_normal((n, d)) + apart * np.eye(max(d, classes), d)[y]
    found = nearest(x, known_for_interval(n, k))
    value = float(label_overlap_from(found.first(k), y).mean())
    return value, *jackknifed(value, label_overlap_without(found, y, k))


def queried(rng, n, d, queries):
    """Label overlap of some samples among all."""
    y = rng.integers(0, 3, n)
    x = rng.standard_normal((n, d)) + 2 * np.eye(d)[y]
    asked = np.sort(rng.permutation(n)[:queries])
    found = nearest(x, 10, queries=asked)
    value = float(label_overlap_from(found, y).mean())
    return value, *jackknifed(value, label_overlap_without(found, y, 10), np.isin(np.arange(n), asked))


def dimension(rng, n, d):
    found = nearest(rng.standard_normal((n, d)), reach(16))
    value = gride_from(found, 16)["id"][-1]
    error = of_halves(halves(lambda chosen: gride_from(found.among(chosen, 16), 16)["id"][-1], n), n)
    return value, *positive(value, error)


def gap(rng, n, pairs):
    shared = 0.7 * rng.standard_normal((n, 8))
    text, image = (shared + rng.standard_normal((n, 8)) + at for at in (0.4, 0.8))
    counts = cosine_counts(text, image, pairs=pairs)
    median = quartiles(counts).median
    own = np.arange(n)
    return median, *bounds(counts, shares(text, image, median, (own, own), pairs=pairs).error)


def gaps(rng, n, pairs):
    """The change of the median cosine by noise in the vectors: between two stores."""
    shared, own = 0.7 * rng.standard_normal((n, 8)), np.arange(n)
    sides = [shared + rng.standard_normal((n, 8)) + at for at in (0.4, 0.8)]
    medians, left = [], []
    for noise in (0, 1.0):
        text, image = (side + noise * rng.standard_normal((n, 8)) for side in sides)
        counts = cosine_counts(text, image, pairs=pairs)
        medians.append(quartiles(counts).median)
        of = shares(text, image, medians[-1], (own, own), pairs=pairs)
        left.append(median_without(counts, of, medians[-1]))
    change = medians[1] - medians[0]
    return change, *normal(change, left_out(left[1] - left[0]))


def cka(rng, n, d, noise, unbiased):
    """Of ten classes, and of the same turned, with noise: all of it is noise, if that is None."""
    x = rng.standard_normal((n, d)) + 2 * np.eye(10, max(d, 10))[rng.integers(0, 10, n), :d]
    y = x @ np.random.default_rng(1).standard_normal((d, d)) / d**0.5
    y = y + noise * rng.standard_normal((n, d)) if noise is not None else rng.standard_normal((n, d))
    sums = Sums.of(([centred(x, x.mean(0))], [centred(y, y.mean(0))]))
    value, of_pairs = (float(of(unbiased=unbiased)[0, 0]) for of in (sums.cka, sums.of_pairs))
    return value, *cka_bounds(value, sums.without(unbiased=unbiased)[:, 0, 0], of_pairs, unbiased=unbiased)


def cluster(rng, n, d, apart, metric="homogeneity"):
    """And the number of clusters: of data sets that have as many."""
    y = rng.integers(0, 3, n)
    found = nearest(rng.standard_normal((n, d)) + apart * np.eye(3, d)[y], reach(100))
    labels = density_peaks_from(found.first(100)).labels
    agreement = homogeneity(y, labels, min_size=1)
    drawn = agreement_of_halves(found, y, labels, density_peaks_from, k=15, min_size=1)
    column = drawn[:, ("homogeneity", "completeness", "v").index(metric)]
    value = getattr(agreement, metric)
    of = labels if metric == "completeness" else y
    return value, *cluster_bounds(value, column, of), len(np.unique(labels))


def attention(rng, n, spread):
    """The share that one of 40 positions draws, of samples that look there more or less, and look more or less."""
    mass = rng.gamma(2, 1, (n, 40)) * rng.gamma(1 / spread, spread, (n, 1))
    mass[:, 7] *= 20 * rng.beta(1, 2, n)
    share_of, whole = mass[:, 7], mass.sum(axis=1)
    value = share_of.sum() / whole.sum()
    return value, *jackknifed(value, LeftOut((share_of.sum() - share_of) / (whole.sum() - whole)))


def rebuilt(rng, n, metric):
    """Of samples of one to nine vectors that are alike, by features of which some samples have more."""
    count = rng.integers(1, 10, n)
    example = np.repeat(np.arange(n), count)
    sample = rng.standard_normal((n, 6)) * rng.gamma(2, 0.5, (n, 1))
    x = (sample[example] + 0.5 * rng.standard_normal((len(example), 6))).astype(np.float32)
    rows = pl.DataFrame({"example": example})
    found = Parts(apart(x, HALF, part_of(rows).to_numpy(), 1 / count[example]))
    return getattr(found.whole.finish(), metric), *found.intervals([metric])[metric]


def classes(rng, n, d, apart):
    y = rng.integers(0, 3, n)
    return rng.standard_normal((n, d)) + apart * np.eye(max(d, 3))[y, :d], y


def folds(rng, n, d, apart):
    """Accuracy of a probe over folds: of what other samples as many would give."""
    right = asked_folded(*classes(rng, n, d, apart), folds=5).right
    return right.mean(), *by_sample(right, FOLDED)


def split(rng, n, d, apart):
    """Accuracy of a probe on a test set, less that on very many samples: of this probe, whatever it was fitted on."""
    (x, y), (others, theirs) = classes(rng, n, d, apart), classes(rng, 2000, d, apart)
    train = np.arange(n + 2000) < n // 2
    right = asked_held_out(np.vstack([x, others]), np.append(y, theirs), train).right
    ends = by_sample(right[: n - n // 2])
    return tuple(value - right[n - n // 2 :].mean() for value in (right[: n - n // 2].mean(), *ends))


def mean(rng, n, a, b):
    """Of probabilities of a word, most of them near 0 or near 1: the lens, and a knockout's."""
    values = rng.beta(a, b, n)
    return values.mean(), *by_sample(values)


def rights(rng, n, before, change):
    """The change of a share: a knockout's accuracy, a patch's preference, most samples unchanged."""
    own = rng.random(n) < before
    other = np.where(rng.random(n) < change, rng.random(n) < 0.2, own)
    changes = other.astype(float) - own
    return changes.mean(), *paired(changes)


def probabilities(rng, n, a, b):
    """The change of a mean of samples' probabilities, or of their similarity to a source."""
    before = rng.beta(a, b, n)
    changes = before * rng.beta(2, 5, n) - before
    return changes.mean(), *of_mean(changes)


def overlaps(rng, n, d, noise, apart=2.0):
    """The change of a label overlap by noise in the vectors."""
    y = rng.integers(0, 3, n)
    x = rng.standard_normal((n, d)) + apart * np.eye(3, d)[y]
    both = [left("", [], [(one, y)], 10) for one in (x, x + noise * rng.standard_normal((n, d)))]
    change = both[1].value - both[0].value
    return change, *difference(change, both[1].left.less(both[0].left))


CASES = {
    "data overlap, n = 60": (data_overlap, 60, 0.7),
    "data overlap, n = 200": (data_overlap, 200, 0.7),
    "overlap, n = 60": (overlap, 60, 5, 2.0, 10),
    "overlap, n = 200": (overlap, 200, 5, 2.0, 10),
    "overlap, n = 200, k = 30": (overlap, 200, 5, 2.0, 30),
    "overlap, n = 200, far apart": (overlap, 200, 5, 3.6, 10),
    "overlap, n = 60, k = 1": (overlap, 60, 5, 2.0, 1),
    "overlap, n = 200, k = 1": (overlap, 200, 5, 2.0, 1),
    "overlap, n = 200, k = 2": (overlap, 200, 5, 2.0, 2),
    "overlap, n = 200, far apart, k = 2": (overlap, 200, 5, 3.6, 2),
    "overlap of random labels, n = 150": (overlap, 150, 3, 0.0, 10),
    "overlap of random labels, n = 150, k = 2": (overlap, 150, 3, 0.0, 2),
    "overlap of random labels, n = 150, k = 1": (overlap, 150, 3, 0.0, 1),
    "overlap of ten random labels, n = 150": (overlap, 150, 10, 0.0, 10, 10),
    "overlap, n = 200, all but 1": (overlap, 200, 5, 5.0, 10),
    "overlap of 40 among 400": (queried, 400, 5, 40),
    "overlap of 60 among 600": (queried, 600, 5, 60),
    "dimension 3, n = 200": (dimension, 200, 3),
    "dimension 8, n = 100": (dimension, 100, 8),
    "gap, unmatched, n = 60": (gap, 60, "unmatched"),
    "gap, matched, n = 100": (gap, 100, "matched"),
    "difference of gaps, unmatched, n = 60": (gaps, 60, "unmatched"),
    "difference of gaps, matched, n = 100": (gaps, 100, "matched"),
    "CKA, n = 60, d = 8": (cka, 60, 8, 1.0, False),
    "CKA, n = 200, d = 8, nearly alike": (cka, 200, 8, 0.3, False),
    "CKA, n = 60, d = 300": (cka, 60, 300, 1.0, False),
    "unbiased CKA, n = 100, d = 16": (cka, 100, 16, 2.0, True),
    "unbiased CKA, n = 60, d = 300": (cka, 60, 300, 1.0, True),
    "unbiased CKA, n = 100, d = 100, independent": (cka, 100, 100, None, True),
    "cluster, n = 400, far apart": (cluster, 400, 3, 4.5),
    "cluster, n = 400, apart": (cluster, 400, 3, 4.0),
    "cluster, n = 400": (cluster, 400, 3, 3.5),
    "cluster, n = 400, near": (cluster, 400, 3, 3.0),
    "completeness of clusters, n = 400": (cluster, 400, 3, 4.0, "completeness"),
    "v of clusters, n = 400": (cluster, 400, 3, 4.0, "v"),
    "probe, 5 folds, n = 100, d = 8": (folds, 100, 8, 1.5),
    "probe, 5 folds, n = 60, d = 40": (folds, 60, 40, 3.0),
    "probe, split, n = 60, d = 8": (split, 60, 8, 1.5),
    "probe, split, n = 200, d = 40": (split, 200, 40, 1.5),
    "fvu, n = 60": (rebuilt, 60, "fvu"),
    "squared error, n = 150": (rebuilt, 150, "squared_error"),
    "relative error, n = 40": (rebuilt, 40, "relative_error"),
    "cosine, n = 150": (rebuilt, 150, "cosine"),
    "l0, n = 40": (rebuilt, 40, "l0"),
    "attention, n = 60": (attention, 60, 0.3),
    "attention, n = 200": (attention, 200, 1.0),
    "difference of shares, n = 40": (rights, 40, 0.9, 0.1),
    "difference of shares, n = 200": (rights, 200, 0.5, 0.4),
    "difference of means, n = 40": (probabilities, 40, 0.3, 0.7),
    "difference of means, n = 200": (probabilities, 200, 2, 2),
    "difference of overlaps, n = 60": (overlaps, 60, 5, 1.0),
    "difference of overlaps, n = 200": (overlaps, 200, 5, 0.5),
    "difference of overlaps of random labels, n = 150": (overlaps, 150, 3, 1.0, 0.0),
    "lens, n = 40": (mean, 40, 0.3, 0.7),
    "lens, n = 200": (mean, 200, 0.1, 0.9),
}
DEAR = {cluster: 200}  # data sets of what takes long; of all else 500


def coverage(case, sets):
    """The share of intervals that hold the mean over the data sets, or over those that are of one kind."""
    simulate, *design = CASES[case]
    found = [simulate(np.random.default_rng(seed), *design) for seed in range(sets)]
    values, low, high = np.transpose([one[:3] for one in found])
    kinds = np.unique([one[3:] for one in found], axis=0, return_inverse=True)[1]
    expected = (np.bincount(kinds, values) / np.bincount(kinds))[kinds]
    return float(((low <= expected) & (expected <= high)).mean())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_what_is_to_be_expected(case):
    sets = DEAR.get(CASES[case][0], 500)
    assert 0.90 - 40 / sets**2 <= coverage(case, sets) <= 0.98 + 2 / sets
