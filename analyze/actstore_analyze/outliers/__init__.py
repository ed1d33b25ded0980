"""Norms of vectors, and dimensions that own them."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.outliers.measure import Magnitudes, magnitudes

__all__ = ["Magnitudes", "magnitudes"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure")
