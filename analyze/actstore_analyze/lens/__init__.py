"""The logit lens: what vectors of middle layers say."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.lens.measure import Readings, read

__all__ = ["Readings", "read"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure")
