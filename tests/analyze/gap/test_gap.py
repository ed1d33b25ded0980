"""Quartiles of cosines against the authors' numbers and numpy, without ever holding all pairs."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.errors import ActstoreError
from actstore_analyze.devices import HOST, Torch
from actstore_analyze.gap import measure
from actstore_analyze.gap.measure import Quartiles, cosine_counts, cosine_gap, quartiles, shares

GOLDEN = Path(__file__).parents[2] / "golden" / "gap"
CHOSEN = {
    "all": lambda i, j: np.full(np.broadcast(i, j).shape, True),
    "unmatched": lambda i, j: i != j,
    "lower": lambda i, j: i > j,
    "matched": lambda i, j: i == j,
}


def in_full(text, image, pairs, absolute):
    """All pairs at once, in float64."""
    text, image = (np.asarray(x, np.float64) for x in (text, image))
    cosines = (text / np.linalg.norm(text, axis=1, keepdims=True)) @ (
        image / np.linalg.norm(image, axis=1, keepdims=True)
    ).T
    cosines = cosines[CHOSEN[pairs](np.arange(len(text))[:, None], np.arange(len(image)))]
    return np.quantile(np.abs(cosines) if absolute else cosines, [0.25, 0.5, 0.75])


def values(found):
    return [found.q25, found.median, found.q75]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_golden(layer):
    arrays = np.load(GOLDEN / "gap.npz")
    text, image = arrays[f"text_{layer}"], arrays[f"image_{layer}"]
    expected = json.loads((GOLDEN / "gap.json").read_text())[layer]
    for pairs, absolute, key in [
        ("all", False, "all_pairs_signed_q25_q50_q75"),
        ("all", True, "all_pairs_abs_q25_q50_q75"),
        ("lower", False, "strict_lower_triangle_signed"),
        ("lower", True, "strict_lower_triangle_abs"),
        ("matched", False, "matched_pairs_signed"),
    ]:
        assert values(cosine_gap(text, image, pairs=pairs, absolute=absolute)) == pytest.approx(expected[key], abs=1e-6)
    author = expected["author_2025"]  # order statistics of |cos|, not interpolated
    found = cosine_gap(text, image, pairs="lower", absolute=True)
    assert values(found) == pytest.approx([author["q1"], author["median"], author["q3"]], abs=2e-4)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("pairs", CHOSEN)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_as_numpy(pairs, absolute, kind):
    rng = np.random.default_rng(0)
    text, image = (rng.standard_normal((237, 20)) + 0.3).astype(kind), rng.standard_normal((237, 20)).astype(kind)
    found = cosine_gap(text, image, pairs=pairs, absolute=absolute)
    assert values(found) == pytest.approx(in_full(text, image, pairs, absolute), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.floats(-3, 3))
def test_any_numbers_of_vectors_and_any_lengths(seed, n, m, log_scale):
    rng = np.random.default_rng(seed)
    text, image = rng.standard_normal((n, 5)), rng.standard_normal((m, 5))
    found = cosine_gap(text * 10**log_scale, image * rng.uniform(0.1, 9, (m, 1)))
    assert values(found) == pytest.approx(in_full(text, image, "all", False), abs=1.5e-6)
    assert values(cosine_gap(image, text)) == pytest.approx(values(found), abs=1.5e-6)


@pytest.mark.parametrize("pairs", CHOSEN)
def test_counts_of_parts_add_up(pairs):
    rng = np.random.default_rng(1)
    text, image = rng.standard_normal((90, 8)), rng.standard_normal((90, 8))
    whole = cosine_counts(text, image, pairs=pairs)
    parts = sum(cosine_counts(text[a:b], image, pairs=pairs, start=a) for a, b in [(0, 1), (1, 50), (50, 90)])
    assert parts.sum() == whole.sum()
    assert np.abs(np.cumsum(parts - whole)).max() <= 3  # cosines that round to the next bin
    n_pairs = {"all": 8100, "unmatched": 8010, "lower": 4005, "matched": 90}[pairs]
    assert whole.sum() == n_pairs
    assert quartiles(whole) == cosine_gap(text, image, pairs=pairs)


def test_equal_and_opposite_vectors():
    x = np.random.default_rng(2).standard_normal((50, 300)).astype(np.float32) * 1e4
    assert values(cosine_gap(x, x, pairs="matched")) == pytest.approx([1, 1, 1], abs=1e-6)
    assert values(cosine_gap(x, -x, pairs="matched")) == pytest.approx([-1, -1, -1], abs=1e-6)
    assert isinstance(cosine_gap(x, x), Quartiles)


def test_memory_is_not_that_of_all_pairs():
    rng = np.random.default_rng(3)
    text, image = rng.standard_normal((2, 10_000, 16), dtype=np.float32)
    tracemalloc.start()
    found = cosine_gap(text, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6  # all pairs would be 400 MB in float32
    assert found.median == pytest.approx(0, abs=1e-3)


X = np.random.default_rng(4).standard_normal((6, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cosine_gap(X, X, pairs="some"), "pairs 'some' are not one of all, unmatched, lower, matched"),
        (lambda: cosine_gap(X, X[:4], pairs="matched"), "6 texts but 4 images"),
        (lambda: cosine_gap(X, X[:, :2]), "text vectors of length 3, image vectors of length 2"),
        (lambda: cosine_gap(X, X * [[1], [0], [1], [1], [1], [1]]), r"row 1 is a zero vector \(1 of 6"),
        (lambda: cosine_gap(X * np.nan, X), "row 0 holds NaN"),
        (lambda: cosine_gap(X[:0], X), "no pairs"),
        (lambda: cosine_gap(X[:1], X[:1], pairs="unmatched"), "no pairs"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ActstoreError, match=message):
        call()


def naive_shares(text, image, most, samples, pairs, absolute):
    """Of each sample (texts, images, both), below and all, pair by pair."""
    found = np.zeros((3, 2, 1 + max(map(max, samples))), np.int64)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image)]
    for (i, j), is_pair in np.ndenumerate(CHOSEN[pairs](np.arange(len(text))[:, None], np.arange(len(image)))):
        cosine = unit[0][i] @ unit[1][j]
        for row, counts in enumerate(((abs(cosine) if absolute else cosine) <= most, True)):
            if is_pair and counts:
                found[0, row, samples[0][i]] += 1
                found[1, row, samples[1][j]] += 1
                found[2, row, samples[0][i]] += samples[0][i] == samples[1][j]
    return found


@pytest.mark.parametrize("device", [HOST, Torch("cpu")], ids=["numpy", "torch"])
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("pairs", CHOSEN)
def test_on_either_device_pairs_are_counted_one_by_one(pairs, absolute, device, monkeypatch):
    monkeypatch.setattr(measure, "_BLOCK_BYTES", 4 * 30 * 7)
    monkeypatch.setattr(measure, "_BLOCK_BYTES_THERE", 4 * 30 * 4)
    rng = np.random.default_rng(5)
    text, image = rng.standard_normal((30, 6)), rng.standard_normal((30, 6))
    counts = cosine_counts(text, image, pairs=pairs, absolute=absolute, device=device)
    assert values(quartiles(counts)) == pytest.approx(in_full(text, image, pairs, absolute), abs=1e-6)
    assert counts.dtype == np.int64
    samples = rng.integers(0, 9, 30), rng.integers(0, 12, 30)
    found = shares(text, image, 0.2, samples, pairs=pairs, absolute=absolute, device=device)
    expected = naive_shares(text, image, 0.2, samples, pairs, absolute)
    np.testing.assert_array_equal([found.texts, found.images, found.own], expected)
