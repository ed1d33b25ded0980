"""Similarity and accuracy of patched runs against golden numbers and plain formulas."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from actstore.errors import ActstoreError
from actstore_analyze.patch.measure import accuracy, probabilities, sign_flip_accuracy, similarity

GOLDEN = Path(__file__).parents[2] / "golden" / "patching"
ARRAYS = np.load(GOLDEN / "patching.npz")
NUMBERS = json.loads((GOLDEN / "patching.json").read_text())
# The authors call the run whose activation is injected (the paper's target) "base", and the patched one "target".
SOURCE, CLEAN, PATCHED = (ARRAYS[name] for name in ("source", "clean", "patched"))
TOKENS = {"target_token": ARRAYS["source_token"], "base_token": ARRAYS["receiver_token"]}


def test_similarity_golden():
    found = similarity(probabilities(PATCHED), probabilities(SOURCE))
    np.testing.assert_allclose(found, ARRAYS["similarity"], rtol=1e-6)
    assert found.mean() == pytest.approx(NUMBERS["similarity_mean"], rel=1e-6)
    assert found.std(ddof=1) == pytest.approx(NUMBERS["similarity_std_unbiased"], rel=1e-6)
    baseline = similarity(probabilities(CLEAN), probabilities(SOURCE))
    np.testing.assert_allclose(baseline, ARRAYS["similarity_unpatched"], rtol=1e-6)


def test_accuracy_golden():
    assert accuracy(PATCHED, **TOKENS) == pytest.approx(NUMBERS["accuracy_injected_class_wins"])
    assert sign_flip_accuracy(PATCHED, CLEAN, **TOKENS) == pytest.approx(NUMBERS["author_sign_flip_rate"])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_similarity_is_one_less_the_total_variation(seed, n_tokens):
    rng = np.random.default_rng(seed)
    q, p = (softmax(4 * rng.standard_normal((5, n_tokens)), axis=1) for _ in range(2))
    found = similarity(q, p)
    np.testing.assert_allclose(found, 1 - np.abs(q - p).sum(axis=1) / 2, rtol=1e-10)
    np.testing.assert_array_equal(found, similarity(p, q))
    np.testing.assert_allclose(similarity(p, p), 1, rtol=1e-12)
    order = rng.permutation(n_tokens)
    np.testing.assert_allclose(similarity(q[:, order], p[:, order]), found, rtol=1e-12)


def test_probabilities_as_scipy():
    logits = 1000 * np.random.default_rng(0).standard_normal((7, 50)).astype(np.float32)
    np.testing.assert_allclose(probabilities(logits), softmax(logits.astype(np.float64), axis=1), rtol=1e-12)


def test_disjoint_predictions_have_nothing_in_common():
    assert similarity(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])).tolist() == [0.0]


def test_half_precision_probabilities_are_probabilities():
    p = probabilities(np.random.default_rng(1).standard_normal((3, 30_000)))
    np.testing.assert_allclose(similarity(p.astype(np.float16), p.astype(np.float16)), 1, atol=1e-2)


def test_a_draw_is_no_success():
    logits = np.array([[1.0, 1.0]])
    assert accuracy(logits, [0], [1]) == accuracy(logits, [1], [0]) == 0.0


def test_a_flip_counts_in_either_direction():
    one, other = np.array([[2.0, 1.0]]), np.array([[1.0, 2.0]])
    assert sign_flip_accuracy(one, other, [0], [1]) == sign_flip_accuracy(other, one, [0], [1]) == 1.0
    assert accuracy(other, [0], [1]) == 0.0


L = np.random.default_rng(2).standard_normal((3, 5))
P = probabilities(L)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: similarity(P, P[:2]), r"shape \(3, 5\) and \(2, 5\)"),
        (lambda: similarity(P, L), "p holds no probabilities"),
        (lambda: similarity(L, P), "q holds no probabilities"),
        (lambda: similarity(P * np.nan, P), "q holds no probabilities"),
        (lambda: similarity(P[0], P[0]), "q holds no probabilities"),
        (lambda: probabilities(L * np.nan), "without NaN"),
        (lambda: accuracy(L, [0, 1], [1, 0]), r"shape \(3, 5\) with tokens of shape \(2,\)"),
        (lambda: accuracy(L, [0, 1, 5], [1, 0, 0]), "run 2: source token 5 of a vocabulary of 5"),
        (lambda: accuracy(L, [0, 1, 2], [1, -1, 0]), "run 1: receiver token -1"),
        (lambda: accuracy(L, [0, 1, 2], [1, 0, 2]), "run 2: token 2 stands for both classes"),
        (lambda: accuracy(L * np.nan, [0, 1, 2], [1, 0, 0]), "run 0: a logit is NaN"),
        (lambda: sign_flip_accuracy(L, L[:2], [0, 1, 2], [1, 0, 0]), r"shape \(2, 5\) with tokens of shape \(3,\)"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ActstoreError, match=message):
        call()
