"""Small lenses with random numbers."""

import numpy as np

from actstore.format.lens import Lens, Optics

D, TOKENS = 16, 61


def made(norm="rmsnorm", softcap=None, d=D, dtype=np.float32):
    """A random lens in which two tokens are never said."""
    rng = np.random.default_rng(0)
    bias = rng.standard_normal(TOKENS).astype(np.float32)
    bias[[3, 60]] = -np.inf
    optics = Optics(norm, 0.1, TOKENS, scale=1.5, softcap=softcap)
    weight, shift = rng.standard_normal((2, d)).astype(np.float32)
    return Lens(optics, weight, shift, bias, rng.standard_normal((TOKENS, d)).astype(dtype))
