"""Patches: whether a model takes over what was put into another sample"s place."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.patch.measure import accuracy, probabilities, sign_flip_accuracy, similarity

__all__ = ["accuracy", "probabilities", "sign_flip_accuracy", "similarity"]

__getattr__, __dir__ = handed_on(__name__, __all__, "measure")
