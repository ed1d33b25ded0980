"""Exact nearest neighbours: float32 proposes, float64 differences decide, an error bound proves."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.neighbors.measure import firsts, nearest, numbered
    from actstore_analyze.neighbors.neighbors import Neighbors
    from actstore_analyze.neighbors.points import parse

__all__ = ["Neighbors", "firsts", "nearest", "numbered", "parse"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure", Neighbors="neighbors", parse="points")
