"""The logit lens: what a model would say next if its residual stream ended at a vector."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actstore.errors import ActstoreError
from actstore.format.lens import Lens
from actstore_analyze.neighbors import parse

__all__ = ["Readings", "read"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Logits = NDArray[np.float32]

_LOGITS = 2**24  # that are in memory at a time


@dataclass(frozen=True)
class Readings:
    """What the lens says of vectors (..., d).

    tokens, probabilities (..., k): the likeliest tokens, likeliest first; entropy (...): in nats.
    probability, rank (...): of the token asked about, 1 for the likeliest; NaN and 0 where none was asked about.
    divergence (...): Kullback-Leibler, in nats, of the last layer's distribution from this one; NaN without last layer.
    """

    tokens: Ints
    probabilities: Floats
    entropy: Floats
    probability: Floats
    rank: Ints
    divergence: Floats


def read(
    lens: Lens, x: NDArray[np.number], targets: ArrayLike | None = None, *, k: int = 10, last: int | None = None
) -> Readings:
    """What the lens says of vectors x (n, d) or (layers, n, d); targets (n,): the token to ask about, -1 for none.

    The model's final norm, then its unembedding (nostalgebraist, "interpreting GPT: the logit lens", 2020).
    last: index of the layer whose distribution is the true one. The vocabulary is gone through in blocks, so that
    memory does not grow with it.
    Raises ActstoreError for vectors of another width, NaN or infinity, and for tokens that the lens does not have.

    >>> from actstore.format.lens import Optics
    >>> eye, zeros = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    >>> lens = Lens(Optics("rmsnorm", 0.0, 3), zeros + 1, zeros, zeros, eye)
    >>> found = read(lens, np.array([[0.0, 5.0, 0.0]]), [2])
    >>> found.tokens.tolist(), found.probabilities.round(2).tolist(), found.rank.tolist()
    ([[1, 0, 2]], [[0.74, 0.13, 0.13]], [2])
    """
    if x.ndim not in (2, 3) or x.shape[-1] != len(lens.weight):
        raise ActstoreError(f"vectors of shape {x.shape}; this lens reads vectors of {len(lens.weight)} numbers")
    n, d = x.shape[-2:]
    wanted = np.full(n, -1) if targets is None else np.asarray(targets, np.int64)
    known = lens.optics.n_tokens
    if wanted.shape != (n,) or not ((wanted >= -1) & (wanted < known)).all():
        raise ActstoreError(f"the tokens asked about: one for each of {n} vectors, from 0 to {known - 1}, or -1")
    normed = lens.normed(parse(x.reshape(-1, d)))
    state = _State.of(_asked(lens, normed, wanted).reshape(-1, n), min(k, known))
    for tokens in lens.blocks(max(1, _LOGITS // max(1, len(normed)))):
        said = np.arange(tokens.start, tokens.stop)[lens.bias[tokens] > -np.inf]
        if len(said):
            logits = lens.logits(normed, tokens if len(said) == tokens.stop - tokens.start else said)
            state.add(said, logits.reshape(-1, n, len(said)), wanted, last)
    return state.readings(wanted, last, x.shape[:-1])


def _asked(lens: Lens, normed: Logits, wanted: Ints) -> Logits:
    """The logit (layers * n,) of the token asked about at each vector; -inf where there is none."""
    tokens, which = np.unique(wanted, return_inverse=True)
    logits = lens.logits(normed, np.maximum(tokens, 0))
    logits[:, tokens < 0] = -np.inf
    asked: Logits = logits[np.arange(len(normed)), np.tile(which, len(normed) // max(1, len(wanted)))]
    return asked


@dataclass
class _State:
    """Sums over the tokens seen, of exp(logit - peak): plain, times the logit, and times that of the last layer."""

    asked: Logits  # (layers, n), as all but the last two
    peak: Logits
    total: Floats
    first: Floats
    cross: Floats
    above: Ints  # tokens that beat the one asked about
    tokens: Ints  # (layers, n, k): the best
    logits: Logits

    @classmethod
    def of(cls, asked: Logits, k: int) -> Self:
        """Before any token."""
        low, zero = np.full(asked.shape, -np.inf, np.float32), np.zeros(asked.shape)
        best = np.full((*asked.shape, k), -np.inf, np.float32)
        return cls(asked, low, zero, zero, zero, zero.astype(np.int64), np.full(best.shape, -1), best)

    def add(self, tokens: Ints, logits: Logits, wanted: Ints, last: int | None) -> None:
        """Some tokens (m,) with their logits (layers, n, m)."""
        peak = np.maximum(self.peak, logits.max(axis=-1))
        shrunk = np.exp((self.peak - peak).astype(np.float64))
        weights = np.exp(logits - peak[..., None])
        self.total = self.total * shrunk + weights.sum(axis=-1, dtype=np.float64)
        self.first = self.first * shrunk + np.vecdot(weights, logits)
        if last is not None:
            self.cross = self.cross * shrunk[last] + np.vecdot(weights[last], logits)
        self.peak = peak
        beaten = logits > self.asked[..., None]
        own = np.flatnonzero(np.isin(wanted, tokens))
        beaten[:, own, np.searchsorted(tokens, wanted[own])] = False  # its own logit, rounded otherwise
        self.above = self.above + np.count_nonzero(beaten, axis=-1)
        self._keep_best(tokens, logits)

    def _keep_best(self, tokens: Ints, logits: Logits) -> None:
        k, m = self.tokens.shape[-1], len(tokens)
        places = logits.argmax(axis=-1)[..., None] if k == 1 else np.argpartition(logits, max(0, m - k))[..., -k:]
        found = np.concatenate([self.logits, np.take_along_axis(logits, places, -1)], axis=-1)
        names = np.concatenate([self.tokens, tokens[places]], axis=-1)
        order = np.argsort(-found, axis=-1, kind="stable")[..., :k]
        self.logits, self.tokens = np.take_along_axis(found, order, -1), np.take_along_axis(names, order, -1)

    def readings(self, wanted: Ints, last: int | None, shape: tuple[int, ...]) -> Readings:
        """What the sums say, each of the shape of the vectors."""
        log_total = np.log(self.total) + self.peak
        asked = np.broadcast_to(wanted >= 0, self.total.shape)
        divergence = np.full(self.total.shape, np.nan)
        if last is not None:
            true = self.first[last] / self.total[last] - log_total[last]
            divergence = np.maximum(true - (self.cross / self.total[last] - log_total), 0)
        return Readings(
            tokens=self.tokens.reshape(*shape, -1),
            probabilities=np.exp(self.logits - log_total[..., None]).reshape(*shape, -1),
            entropy=(log_total - self.first / self.total).reshape(shape),
            probability=np.where(asked, np.exp(self.asked - log_total), np.nan).reshape(shape),
            rank=np.where(asked, self.above + 1, 0).reshape(shape),
            divergence=divergence.reshape(shape),
        )
