"""Activation patching: how far a patched run says what the run it was patched from would say."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actstore.errors import ActstoreError

__all__ = ["accuracy", "probabilities", "sign_flip_accuracy", "similarity"]

Floats = NDArray[np.float64]
_SUM_TOLERANCE = 1e-2  # of probabilities rounded to 16 bits


def probabilities(logits: NDArray[np.floating]) -> Floats:
    """Softmax (n, vocabulary) of logits in float64.

    >>> probabilities(np.array([[0.0, 0.0, -np.inf]])).tolist()
    [[0.5, 0.5, 0.0]]
    """
    shifted = np.asarray(logits, np.float64)
    if shifted.ndim != 2 or np.isnan(shifted).any():
        raise ActstoreError(f"logits must be numbers of shape (n, vocabulary), without NaN; got shape {shifted.shape}")
    weights = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares


def similarity(q: NDArray[np.floating], p: NDArray[np.floating]) -> Floats:
    """Overlap (n,) in [0, 1] of next-token probabilities q and p (n, vocabulary): sum over tokens of min(q, p).

    The Narrow Gate (Serra et al.): q of the patched run, p of the source's own run; q of the run without a patch
    gives the baseline. Raises ActstoreError for unequal shapes, and for rows that are not probabilities.

    >>> similarity(np.array([[0.5, 0.5, 0.0]]), np.array([[0.0, 0.25, 0.75]])).tolist()
    [0.25]
    """
    if q.shape != p.shape:
        raise ActstoreError(f"probabilities of shape {q.shape} and {p.shape}; compare the same runs and vocabulary")
    for name, shares in (("q", q), ("p", p)):
        sums = shares.sum(axis=-1, dtype=np.float64)
        if shares.ndim != 2 or not (np.abs(sums - 1) < _SUM_TOLERANCE).all() or (shares < 0).any():
            raise ActstoreError(
                f"{name} holds no probabilities (n, vocabulary) that sum to 1; take probabilities(logits)"
            )
    shared: Floats = np.minimum(q, p).sum(axis=1, dtype=np.float64)
    return shared


def accuracy(logits: NDArray[np.floating], target_token: ArrayLike, base_token: ArrayLike) -> float:
    """Share [0, 1] of patched runs, logits (n, vocabulary), that prefer the source's token (n,) to the receiver's (n,).

    The Narrow Gate (Serra et al.): P(source's) > P(receiver's) after the residual of the source's class was patched in.
    target_token is the source's, base_token the receiver's: the paper calls the two classes target and base.
    Raises ActstoreError for tokens outside the vocabulary and for a pair of equal tokens.

    >>> accuracy(np.array([[2.0, 1.0], [2.0, 1.0]]), [0, 1], [1, 0])
    0.5
    """
    return float((_preference(logits, target_token, base_token) > 0).mean())


def sign_flip_accuracy(
    logits: NDArray[np.floating], clean_logits: NDArray[np.floating], target_token: ArrayLike, base_token: ArrayLike
) -> float:
    """Share [0, 1] of runs whose preference between the two tokens changes sign by the patch, in either direction.

    What the authors' code computes; `accuracy` is what the paper defines, and has the same tokens.

    >>> sign_flip_accuracy(np.array([[2.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 2.0], [2.0, 1.0]]), [0, 0], [1, 1])
    0.5
    """
    patched, clean = (_preference(each, target_token, base_token) for each in (logits, clean_logits))
    if patched.shape != clean.shape:
        raise ActstoreError(f"{len(patched)} patched runs but {len(clean)} clean ones; give them in pairs")
    return float((np.sign(patched) != np.sign(clean)).mean())


def _preference(logits: NDArray[np.floating], source_token: ArrayLike, receiver_token: ArrayLike) -> Floats:
    """By how much (n,) the source's logit exceeds the receiver's."""
    source, receiver = np.asarray(source_token), np.asarray(receiver_token)
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or not len(values) or source.shape != (len(values),) or receiver.shape != source.shape:
        raise ActstoreError(f"logits of shape {values.shape} with tokens of shape {source.shape} and {receiver.shape}")
    rows, n_tokens = np.arange(len(values)), values.shape[1]
    for name, token in (("source", source), ("receiver", receiver)):
        outside = np.flatnonzero((token < 0) | (token >= n_tokens))
        if len(outside):
            raise ActstoreError(f"run {outside[0]}: {name} token {token[outside[0]]} of a vocabulary of {n_tokens}")
    same = np.flatnonzero(source == receiver)
    if len(same):
        raise ActstoreError(
            f"run {same[0]}: token {source[same[0]]} stands for both classes; choose tokens that differ"
        )
    difference: Floats = values[rows, source] - values[rows, receiver]
    if np.isnan(difference).any():
        raise ActstoreError(f"run {np.flatnonzero(np.isnan(difference))[0]}: a logit is NaN or both are infinite")
    return difference
