"""Cross-modal attention against the authors' numbers, a plain loop, and what is stored of it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.errors import ActstoreError
from actstore_analyze.attention.measure import cross_modal, cross_modal_from_mass, singled_out

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "attention" / "crossattn.npz")
EOI = 22


def random_attention(seed, shape=(2, 3), t=12):
    """Causal attention [layers, heads, T, T], as after a softmax."""
    weights = np.tril(np.random.default_rng(seed).gamma(0.5, size=(*shape, t, t)) + 1e-6)
    return weights / weights.sum(axis=-1, keepdims=True)


def test_golden():
    np.testing.assert_allclose(cross_modal(GOLDEN["attention"], EOI), GOLDEN["without_initial"], rtol=1e-6)
    np.testing.assert_allclose(cross_modal(GOLDEN["attention"], EOI, initial=0), GOLDEN["with_initial"], rtol=1e-6)


def test_golden_is_the_authors_sum_normalised():
    summed = GOLDEN["summed"]
    np.testing.assert_allclose(cross_modal_from_mass(summed[:, None], EOI), GOLDEN["without_initial"], rtol=1e-6)


def test_golden_singled_out():
    f = cross_modal(GOLDEN["attention"], EOI, initial=0)
    assert singled_out(f, initial=0).tolist() == list(range(23))


def test_singled_out_averages_over_layers():
    f = np.array([[0.019, 0.001, 0.9, 0.08], [0.003, 0.015, 0.9, 0.082]])
    assert singled_out(f).tolist() == [2, 4, 5]
    assert singled_out(f, threshold=0.5).tolist() == [4]
    assert singled_out(f, initial=0).tolist() == [0, 2, 3]


def test_against_a_plain_loop():
    attention, eoi = random_attention(0), 7
    f = cross_modal(attention, eoi)
    for layer in range(2):
        raw = [sum(attention[layer, h, i, j] for h in range(3) for i in range(eoi + 1, 12)) for j in range(2, eoi + 1)]
        np.testing.assert_allclose(f[layer], np.array(raw) / sum(raw), rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 3))
def test_stored_mass_gives_the_same(seed, n_samples, initial):
    samples = np.stack([random_attention(seed + i) for i in range(n_samples)])
    eoi = 7
    mass = samples[..., eoi + 1 :, :].sum(axis=-2).mean(axis=2).transpose(1, 0, 2)  # layers, samples, keys
    expected = cross_modal(samples.mean(axis=0), eoi, initial=initial)
    np.testing.assert_allclose(cross_modal_from_mass(mass, eoi, initial=initial), expected, rtol=1e-10)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-12)
    by_part = mass[:, :1].sum(axis=1, keepdims=True) + mass[:, 1:].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(cross_modal_from_mass(by_part, eoi, initial=initial), expected, rtol=1e-10)


def test_many_half_precision_samples_add_up_exactly():
    mass = np.full((1, 20_000, 4), 0.001, np.float16)
    mass[:, :, 3] = 0.003
    f = cross_modal_from_mass(mass, 3)
    np.testing.assert_allclose(f, [[0.25, 0.75]], rtol=1e-3)  # a float16 sum stops growing at 4


def test_keys_past_the_image_do_not_count():
    mass = np.array([[[1.0, 1.0, 2.0, 6.0, np.nan]]])
    np.testing.assert_array_equal(cross_modal_from_mass(mass, 3), [[0.25, 0.75]])


A = random_attention(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cross_modal(A[0], 7), r"shape \[layers, heads, T, T\], got \(3, 12, 12\)"),
        (lambda: cross_modal(A[..., :7], 5), r"got \(2, 3, 12, 7\)"),
        (lambda: cross_modal(A, 11), "end of image at 11 of 12 positions: no text follows"),
        (lambda: cross_modal(A, 3, initial=4), "positions 4..3 are not all among the 4 keys"),
        (lambda: cross_modal(A, 3, initial=-1), r"positions -1\.\.3"),
        (lambda: cross_modal_from_mass(A[0, 0], 3), r"shape \[layers, samples, keys\], got \(12, 12\)"),
        (
            lambda: cross_modal_from_mass(np.full((2, 1, 5), np.nan), 4),
            "layer 0: attention to positions 2..4 sums to nan",
        ),
        (lambda: cross_modal_from_mass(np.zeros((2, 1, 5)), 4), "sums to 0.0"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ActstoreError, match=message):
        call()
