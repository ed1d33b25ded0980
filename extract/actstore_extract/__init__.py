"""The model side of actstore: recipes, samples, model families, capture and the runner."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_extract.run.extraction import extract

__all__ = ["extract"]

__getattr__, __dir__ = handed_on(__name__, __all__, "run.extraction")
