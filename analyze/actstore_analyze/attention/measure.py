"""Cross-modal attention: how the text's attention to the image is spread over image positions."""

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError

__all__ = ["cross_modal", "cross_modal_from_mass", "singled_out"]

Floats = NDArray[np.float64]


def cross_modal(attention: NDArray[np.floating], eoi: int, *, initial: int = 2) -> Floats:
    """Share f (layers, positions) of the text's attention to the image that goes to each position, rows summing to 1.

    attention [layers, heads, T, T], after the softmax, row by query; eoi: position of the end-of-image token,
    or of the last image token where a model has none; text: all positions after it. Column j of f is position
    initial + j, the last one eoi. initial: positions before the image left out, [BOS] and [BOI] by default, as they
    draw attention whatever follows; 0 keeps them.
    The Narrow Gate (Serra et al.), cross-modal attention f_j^l: mean over heads and text queries, then normalised.
    Raises ActstoreError for other shapes, a position out of range, NaN, and a layer whose text ignores the image.

    >>> uniform = np.tril(np.ones((8, 8))) / np.arange(1, 9)[:, None]
    >>> cross_modal(uniform[None, None], eoi=5).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    if attention.ndim != 4 or attention.shape[2] != attention.shape[3]:
        raise ActstoreError(f"attention must have the shape [layers, heads, T, T], got {attention.shape}")
    if not eoi < attention.shape[2] - 1:
        raise ActstoreError(
            f"end of image at {eoi} of {attention.shape[2]} positions: no text follows that could attend"
        )
    mass = attention[:, :, eoi + 1 :, : eoi + 1].sum(axis=2, dtype=np.float64)
    return cross_modal_from_mass(mass, eoi, initial=initial)


def cross_modal_from_mass(mass: NDArray[np.floating], eoi: int, *, initial: int = 2) -> Floats:
    """As `cross_modal`, from the attention [layers, samples, keys] that all text queries of a sample pay to each key.

    This is the array `attention/mass` of a store. Sums over the samples of several parts, added up and given
    as [layers, 1, keys], yield what all their samples together would.

    >>> cross_modal_from_mass(np.array([[[9.0, 9.0, 1.0, 3.0], [9.0, 9.0, 0.0, 4.0]]]), eoi=3).tolist()
    [[0.125, 0.875]]
    """
    if mass.ndim != 3:
        raise ActstoreError(f"attention mass must have the shape [layers, samples, keys], got {mass.shape}")
    if not 0 <= initial <= eoi < mass.shape[2]:
        raise ActstoreError(
            f"positions {initial}..{eoi} are not all among the {mass.shape[2]} keys of the attention mass"
        )
    total: Floats = mass[:, :, initial : eoi + 1].sum(axis=1, dtype=np.float64)
    whole = total.sum(axis=1, keepdims=True)
    bad = np.flatnonzero(~(whole[:, 0] > 0))
    if len(bad):
        raise ActstoreError(
            f"layer {bad[0]}: attention to positions {initial}..{eoi} sums to {whole[bad[0], 0]}; "
            "use samples whose image ends at the same position, with text after it"
        )
    f: Floats = total / whole
    return f


def singled_out(f: Floats, *, threshold: float = 0.01, initial: int = 2) -> NDArray[np.int64]:
    """Positions that draw, averaged over layers, more than `threshold` of the attention f (layers, positions).

    initial: the position of column 0 of f, as given to `cross_modal`. The Narrow Gate names these; the rest is the
    internal image.

    >>> singled_out(np.array([[0.005, 0.6, 0.395], [0.001, 0.999, 0.0]]))
    array([3, 4])
    """
    return np.flatnonzero(f.mean(axis=0) > threshold) + initial
