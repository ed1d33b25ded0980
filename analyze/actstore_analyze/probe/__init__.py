"""Linear probes: which labels a line can read off vectors."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.probe.measure import Probed, folded, held_out

__all__ = ["Probed", "folded", "held_out"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure")
