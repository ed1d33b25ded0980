"""Which samples each feature of a sparse autoencoder is strongest in, gathered a part at a time."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tops"]


class Tops:
    """Of each feature the `k` samples in which it is strongest, by its largest activation on any of their vectors.

    Of all vectors n: `active` those on which it is active (features,), `sums` of its activations. `samples`: in how
    many samples it is active.

    >>> tops = Tops(2, 2)
    >>> tops.add(np.array([0, 0, 1]), np.array([[1.0, 0.0], [4.0, 0.0], [2.0, 3.0]]))
    >>> [list(tops.strongest(feature)) for feature in (0, 1)], tops.active.tolist()
    ([[(0, 4.0), (1, 2.0)], [(1, 3.0)]], [3, 1])
    """

    def __init__(self, n_features: int, k: int) -> None:
        self.n = 0
        self.active, self.samples = np.zeros(n_features, np.int64), np.zeros(n_features, np.int64)
        self.sums = np.zeros(n_features)
        self._values = np.zeros((k, n_features), np.float32)
        self._owners = np.full((k, n_features), -1)
        self._open: tuple[int, NDArray[np.float32]] | None = None  # the last sample, which the next part may go on with

    def add(self, samples: NDArray[np.int64], features: NDArray[np.floating]) -> None:
        """Features (n, n_features) of vectors, each of one of the samples (n,); these never decrease."""
        last = samples[0] if self._open is None else self._open[0]
        assert (np.diff(samples, prepend=last) >= 0).all(), "a sample's rows follow each other"
        self.n += len(samples)
        self.active += (features > 0).sum(axis=0)
        self.sums += np.where(features > 0, features, 0).sum(axis=0, dtype=np.float64)
        own, starts = np.unique(samples, return_index=True)
        largest = np.maximum.reduceat(features, starts, axis=0).astype(np.float32)
        if self._open is not None:
            before, values = self._open
            if own[0] == before:
                largest[0] = np.maximum(largest[0], values)
            else:
                own, largest = np.concatenate([[before], own]), np.concatenate([values[None], largest])
        self._close(own[:-1], largest[:-1])
        self._open = int(own[-1]), largest[-1]

    def strongest(self, feature: int) -> list[tuple[int, float]]:
        """Samples and activations, the strongest first, of equal ones the earlier; none where it is not active."""
        if self._open is not None:
            self._close(np.array([self._open[0]]), self._open[1][None])
            self._open = None
        pairs = zip(self._owners[:, feature].tolist(), self._values[:, feature].tolist(), strict=True)
        return [(owner, value) for owner, value in pairs if value > 0]

    def _close(self, owners: NDArray[np.int64], largest: NDArray[np.float32]) -> None:
        self.samples += (largest > 0).sum(axis=0)
        k, width = self._values.shape
        values = np.concatenate([self._values, largest])
        whose = np.concatenate([self._owners, np.broadcast_to(owners[:, None], (len(owners), width))])
        order = np.argsort(-values, axis=0, kind="stable")[:k]
        self._values = np.take_along_axis(values, order, axis=0)
        self._owners = np.take_along_axis(whose, order, axis=0)
