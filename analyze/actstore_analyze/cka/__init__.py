"""Linear CKA: which layer of one representation is like which layer of another."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.cka.measure import Sums, linear_cka

__all__ = ["Sums", "linear_cka"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure")
