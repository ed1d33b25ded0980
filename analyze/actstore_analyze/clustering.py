"""The name that `actstore_analyze.cluster.measure` has had since 0.1."""

from actstore_analyze.cluster.measure import (
    Clusters,
    Homogeneity,
    density_peaks,
    density_peaks_from,
    hdbscan,
    homogeneity,
)

__all__ = ["Clusters", "Homogeneity", "density_peaks", "density_peaks_from", "hdbscan", "homogeneity"]
