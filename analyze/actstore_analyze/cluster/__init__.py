"""Clusters of vectors, and whether each holds one label only."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.cluster.density import knn_log_density
    from actstore_analyze.cluster.measure import (
        Clusters,
        Homogeneity,
        density_peaks,
        density_peaks_from,
        hdbscan,
        homogeneity,
    )

__all__ = [
    "Clusters",
    "Homogeneity",
    "density_peaks",
    "density_peaks_from",
    "hdbscan",
    "homogeneity",
    "knn_log_density",
]

__getattr__, __dir__ = handed_on(
    __name__,
    __all__,
    "measure",
    knn_log_density="density",
)
