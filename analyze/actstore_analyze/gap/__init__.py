"""Modality gap: the cosine between text vectors and image vectors."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.gap.measure import Quartiles, cosine_counts, cosine_gap, quartiles

__all__ = ["Quartiles", "cosine_counts", "cosine_gap", "quartiles"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure")
