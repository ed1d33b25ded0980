"""Autoencoders whose weights lie on a device: all features are multiplied there, active or not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actstore_analyze.devices import Device

__all__ = ["There"]


@dataclass(frozen=True)
class There:
    """An autoencoder on a device: `features` (n, n_features) of vectors (n, d_in) in float32, `vectors` of features."""

    device: Device
    d_in: int
    n_features: int
    features: Callable[[Any], Any]
    vectors: Callable[[Any], Any]

    def encode(self, x: NDArray[np.floating], /) -> NDArray[np.float32]:
        """Features (n, n_features) of vectors (n, d)."""
        return self.device.get(self.features(self._put(x)))

    def decode(self, features: NDArray[np.floating], /) -> NDArray[np.float32]:
        """Vectors (n, d) of features."""
        return self.device.get(self.vectors(self._put(features)))

    def rebuild(self, x: NDArray[np.floating], /) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
        """How many features are active on each vector (n,), and the vectors of them (n, d)."""
        active, rebuilt = self.rebuilt(self._put(x))
        return self.device.get(active), self.device.get(rebuilt)

    def rebuilt(self, x: Any, /) -> tuple[Any, Any]:
        """The same of vectors that are on the device, there."""
        features = self.features(x)
        return (features != 0).sum(1), self.vectors(features)

    def _put(self, x: NDArray[np.floating]) -> Any:
        return self.device.put(np.asarray(x, np.float32))
