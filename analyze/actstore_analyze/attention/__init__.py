"""Cross-modal attention: where in the image the text looks."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.attention.measure import cross_modal, cross_modal_from_mass, singled_out

__all__ = ["cross_modal", "cross_modal_from_mass", "singled_out"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure")
