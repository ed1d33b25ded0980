"""The name that `actstore_analyze.cluster.density` has had since 0.1."""

from actstore_analyze.cluster.density import knn_log_density

__all__ = ["knn_log_density"]
