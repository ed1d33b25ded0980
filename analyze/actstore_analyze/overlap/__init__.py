"""Neighbourhood overlap: of vectors with labels, and with other vectors."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.overlap.measure import (
        chance_level,
        data_overlap,
        label_overlap,
        label_overlap_from,
        label_overlap_per_point,
    )

__all__ = ["chance_level", "data_overlap", "label_overlap", "label_overlap_from", "label_overlap_per_point"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure")
