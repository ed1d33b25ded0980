"""Intrinsic dimension (Gride)."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.dimension.measure import gride, gride_from

__all__ = ["gride", "gride_from"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure")
