"""Linear CKA against naive lines: the definition, the unbiased estimator as it is written, and blocks that add up."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actstore import ActstoreError
from actstore_analyze.cka import Sums, linear_cka, measure
from actstore_analyze.cka.blocks import Place, cut
from actstore_analyze.cka.measure import Mean, bounds, centred
from actstore_analyze.devices import HOST, Torch


def naive(x, y):
    """Kornblith et al. 2019, eq. 4."""
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def hsic(x, y):
    """Song et al. 2012, eq. 5, on Gram matrices as they are."""
    n, one = len(x), np.ones(len(x))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    product = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + product - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def unbiased(x, y):
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def sides(n=60, d=8, e=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) + 3
    return x, x @ rng.standard_normal((d, e)) + 2 * rng.standard_normal((n, e))


@pytest.mark.parametrize(("n", "d", "e"), [(60, 8, 5), (5, 30, 2), (4, 3, 3), (200, 1, 64)])
def test_equal_to_the_definitions(n, d, e):
    x, y = sides(n, d, e)
    assert linear_cka(x, y) == pytest.approx(naive(x, y), rel=1e-5)
    assert linear_cka(x, y, unbiased=True) == pytest.approx(unbiased(x, y), rel=1e-4, abs=1e-6)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-6)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_neither_rotation_nor_scale_nor_shift_matters(seed, scale, shift):
    x, y = sides(seed=seed)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 8)))[0]
    moved = scale * (x @ turn) + shift * scale
    assert linear_cka(moved, x) == pytest.approx(1, rel=1e-5)
    assert linear_cka(moved, y) == pytest.approx(linear_cka(x, y), rel=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_the_same_vectors_are_alike_to_the_last_digit(seed):
    x, y = sides(seed=seed)
    assert [linear_cka(one, one, unbiased=kind) for one in (x, y) for kind in (False, True)] == [1.0] * 4


def test_few_samples_of_many_dimensions_look_alike_only_where_it_is_biased():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 2000)), rng.standard_normal((30, 2000))
    assert linear_cka(x, y) > 0.9
    assert abs(linear_cka(x, y, unbiased=True)) < 0.1


def pieces_of(n, step):
    return [*cut(0, Place(0, ("x", "y"), (np.arange(n), np.arange(n))), step, None)]


def many(n=60):
    """Sums of two layers beside three, in blocks of 5 samples beside those that follow, and these layers."""
    (x, y), (z, _) = sides(n), sides(n, d=3, seed=1)
    own, others = (x, z), (y, x, z)
    layers = [[centred(one, one.mean(0)) for one in side] for side in (own, others)]

    def block(rows):
        return tuple([one[some] for one in side] for side, some in zip(layers, rows, strict=True))

    def sums(piece):
        return Sums.of(block(piece.rows), map(block, piece.others), piece.n_others, inside=piece.inside)

    return Sums.together((n, 2, 3), ((piece.at, sums(piece)) for piece in pieces_of(n, step=5))), own, others


@pytest.mark.parametrize(("n", "step"), [(1, 1), (4, 9), (9, 9), (10, 9), (37, 4), (90, 9), (23, 1)])
def test_each_pair_is_in_one_piece_and_samples_are_read_little_more_often_than_by_whole_rows_of_blocks(n, step):
    counted, read = np.zeros((n, n), int), 0
    for piece in pieces_of(n, step):
        own, others = np.split(piece.at, [len(piece.rows[0])])
        assert [*np.concatenate([own, *(rows[1] for rows in piece.others)])] == [*piece.at]
        assert len(own) <= step
        assert len(others) <= 4 * step
        counted[np.ix_(own, own)] += piece.inside
        counted[np.ix_(own, others)] += 1
        counted[np.ix_(others, own)] += 1
        read += len(piece.at)
    assert (counted == 1).all()
    assert read <= 1.25 * sum(n - start for start in range(0, n, step))


def test_a_mean_of_parts_is_the_mean_and_of_what_is_the_same_exactly_that():
    x = np.random.default_rng(0).lognormal(0, 3, (20, 4)).astype(np.float32)
    parts = [Mean.of(x[start : start + 7]) for start in range(0, 20, 7)]
    np.testing.assert_allclose((parts[0] + parts[1] + parts[2]).value, x.mean(0, dtype=np.float64), rtol=1e-14)
    same = np.full((7, 4), 0.1, np.float32)
    assert ((Mean.of(same) + Mean.of(same[:3])).value == same[0]).all()


@pytest.mark.parametrize(("kind", "of_two"), [(False, naive), (True, unbiased)])
def test_pieces_add_up(kind, of_two, monkeypatch):
    monkeypatch.setattr(measure, "COLUMNS", 4)
    sums, own, others = many()
    expected = [[of_two(a, b) for b in others] for a in own]
    np.testing.assert_allclose(sums.cka(unbiased=kind), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "of_two"), [(False, naive), (True, unbiased)])
def test_without_a_sample_it_is_that_of_the_others(kind, of_two, monkeypatch):
    monkeypatch.setattr(measure, "COLUMNS", 4)
    sums, own, others = many(n=18)
    found = sums.without(unbiased=kind)
    assert found.shape == (18, 2, 3)
    for i in range(18):
        expected = [[of_two(np.delete(a, i, 0), np.delete(b, i, 0)) for b in others] for a in own]
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [False, True])
def test_what_is_of_pairs_is_what_no_sum_over_their_two_samples_explains(kind, monkeypatch):
    monkeypatch.setattr(measure, "COLUMNS", 4)
    n, (sums, own, others) = 18, many(n=18)
    off = ~np.eye(n, dtype=bool)
    either = np.array([np.eye(n)[i] + np.eye(n)[j] for i, j in np.argwhere(off)])
    for (i, j), found in np.ndenumerate(sums.of_pairs(unbiased=kind)):
        x, y = (one - one.mean(0) for one in (own[i], others[j]))
        k, m = x @ x.T, y @ y.T
        of = (lambda a, b: n * (n - 3) * hsic(a, b)) if kind else (lambda a, b: ((a @ a.T) * (b @ b.T)).sum())
        norms = of(x, x), of(y, y)
        h = (
            k * m / np.sqrt(norms[0] * norms[1])
            - of(x, y) / np.sqrt(norms[0] * norms[1]) * (k**2 / norms[0] + m**2 / norms[1]) / 2
        )
        left = np.linalg.lstsq(either, h[off], rcond=None)[1]
        assert found == pytest.approx(2 * left.item() if left.size else 0, rel=1e-3, abs=1e-9)


def test_intervals_stay_where_cka_can_be():
    far = 0.02 + np.linspace(-0.01, 0.01, 30)
    assert bounds(0.02, far)[0] == 0 > bounds(0.02, far, unbiased=True)[0]
    low, high = bounds(0.999, 0.999 + np.linspace(-0.0004, 0.0004, 30))
    assert low < 0.999 < high < 1


def test_a_side_that_does_not_vary_has_none():
    x, _ = sides()
    for kind in (False, True):
        assert np.isnan(linear_cka(x, np.full((60, 3), 7.3), unbiased=kind))


@pytest.mark.parametrize(
    ("x", "y", "kind", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), False, r"of the same samples, not \(3, 2\) with \(4, 2\)"),
        (np.ones(3), np.ones((3, 2)), False, "vectors"),
        (np.ones((1, 2)), np.ones((1, 2)), False, "CKA needs 2 samples; these are 1"),
        (np.ones((3, 2)), np.ones((3, 2)), True, "unbiased CKA needs 4 samples; these are 3"),
    ],
)
def test_bad_input(x, y, kind, message):
    with pytest.raises(ActstoreError, match=message):
        linear_cka(x, y, unbiased=kind)


@pytest.mark.parametrize("alike", [False, True])
def test_on_torch_as_with_numpy(alike, monkeypatch):
    """Of float32 products, summed in float64: to some six digits."""
    monkeypatch.setattr(measure, "COLUMNS", 4)
    (x, y), (z, _) = sides(30), sides(30, d=3, seed=1)
    own, others = ([centred(one, one.mean(0)) for one in side] for side in ((x, z), (y, x, z)))

    def block(rows):
        x = [one[rows] for one in own]
        return x, x if alike else [one[rows] for one in others]

    def sums(device):
        return Sums.of(block(slice(20)), [block(slice(20, 26)), block(slice(26, 30))], 10, device=device)

    here, there = sums(HOST), sums(Torch("cpu"))
    for one in fields(Sums):
        a, b = getattr(here, one.name), getattr(there, one.name)
        assert type(b) is np.ndarray
        assert b.dtype == np.float64
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6 * np.abs(a).max())
    np.testing.assert_allclose(there.cka(), here.cka(), rtol=0, atol=1e-6)
