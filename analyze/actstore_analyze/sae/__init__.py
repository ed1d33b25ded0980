"""Sparse autoencoders on stored vectors: reconstruction, features, what those are about."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.sae.features import Activity, MatchRate, match_rate, top_features
    from actstore_analyze.sae.measure import (
        Autoencoder,
        Moments,
        Reconstruction,
        Sums,
        gaussian_like,
        moments,
        reconstruction,
        rotated,
        rotation,
        sums,
    )

__all__ = [
    "Activity",
    "Autoencoder",
    "MatchRate",
    "Moments",
    "Reconstruction",
    "Sums",
    "gaussian_like",
    "match_rate",
    "moments",
    "reconstruction",
    "rotated",
    "rotation",
    "sums",
    "top_features",
]

__getattr__, __dir__ = handed_on(
    __name__,
    __all__,
    "measure",
    Activity="features",
    MatchRate="features",
    match_rate="features",
    top_features="features",
)
